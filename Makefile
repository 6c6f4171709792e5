# make test: an environment in .venv, then the tests in JOBS processes, on the GPU with DEVICE=cuda.
# make demo: the whole published table in miniature, on drawn pictures, without downloaded data or weights.
# make real VOC=VOCdevkit/VOC2012: the same table on a few real photos, with small networks; SALIENCY=DIR: your saliency maps, not U^2-Net's.
PYTHON ?= python3
VENV ?= .venv
DEVICE ?= cpu
JOBS ?= 2
RUN := $(VENV)/bin/python

.PHONY: test lint demo devkit real tensorboard clean

test: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(JOBS) --dist worksteal --device $(DEVICE)

lint: $(VENV)/.ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

# Rerun `make demo` to resume an interrupted run; `rm -r demo_run` deletes it.
demo: $(VENV)/.ready
	$(RUN) demo/run.py --out demo_run

devkit:  # checked before 6 GB are installed
	@test -d "$(VOC)/JPEGImages" || { echo "VOC=$(VOC): holds no JPEGImages. Give the devkit: make real VOC=VOCdevkit/VOC2012"; exit 1; }
	@test -z "$(SALIENCY)" || test -d "$(SALIENCY)" || { echo "SALIENCY=$(SALIENCY): no such folder"; exit 1; }

real: devkit $(VENV)/.ready
	$(RUN) reproduce.py --laptop --voc12_root "$(VOC)" \
	    $(if $(SALIENCY),--sal_path "$(SALIENCY)") --out real_run

tensorboard: $(VENV)/.ready
	$(RUN) -m tensorboard.main --logdir demo_run/runs

# Rerun when the requirements change. The mark is written last, so that an interrupted installation is repeated.
$(VENV)/.ready: requirements.txt requirements-coco.txt requirements-timm.txt requirements-onnx.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV)

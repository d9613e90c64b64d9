# Each target makes what it needs: the virtual environment is .venv, made once.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
KERNELS := src/trtcoder/plugins/libtrtcoder_kernels.so
PAGE := runtime/server/page

.PHONY: demo plugins test lint types parity bench quality sanitize bench-kernels bench-cpu bench-batching bench-fp8 bench-fim load keystrokes bench-extra bench-overhead bench-sampler bench-startup chaos clients ray k8s fuzz-http build-lite demo-train cli-docs page screenshots eval bench-eval bench-needle fuzz-kernels neon wheel bench-contention bench-triton triton bench-speculation targets rtx optimum gpu gpu-prepare bench-plans clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "torch==2.13.0"
	TRTCODER_PLUGINS=0 $(BIN)/pip install --quiet --disable-pip-version-check --editable ".[cpu,build,serve,otel,triton,verify,report,eval,dev]"
	touch $(STAMP)

demo: plugins  ## Build, verify and run an INT4 engine of the demo checkpoint.
	$(BIN)/trtcoder build demo/checkpoint --out engines/demo-int4 --weights int4 --force
	@echo; echo "== completion"
	$(BIN)/python examples/complete.py engines/demo-int4
	@echo; echo "== fill in the middle"
	$(BIN)/python examples/fill.py engines/demo-int4
	@echo; echo "== chat"
	$(BIN)/python examples/chat.py engines/demo-int4

plugins: $(STAMP)  ## Compile the kernels; without a compiler engines run on ONNX Runtime's own.
	@$(BIN)/python plugins/build.py $(KERNELS) || test $$? -eq 3

test: $(STAMP) plugins lint types  ## Lint, type-check and run the tests.
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python docs/cli.py --check
	$(BIN)/python -m benchmarks.readme --check

types: $(STAMP)
	$(BIN)/mypy

parity: plugins  ## Engines of random checkpoints of every kind against both references.
	$(BIN)/python -m benchmarks.parity

sanitize: $(STAMP)  ## The kernels' tests under GCC's sanitizers of addresses, behaviour and threads: ten minutes.
	$(BIN)/python plugins/sanitize.py

fuzz-kernels: $(STAMP)  ## Right and wrong calls of our operators, under the sanitizers: two minutes. ARGS="--seconds 3600".
	$(BIN)/python -m plugins.fuzzing $(ARGS)

neon: $(STAMP)  ## The kernels for aarch64, in qemu beside this machine's (needs g++-aarch64-linux-gnu, qemu-user).
	$(BIN)/python -m plugins.fuzzing --target aarch64-linux-gnu

wheel:  ## A wheel with the kernels in it, by ziglang's compiler, in a new environment: three minutes.
	$(PYTHON) plugins/wheel.py dist

bench: plugins  ## Speed, load time and memory; what the demo model answers.
	$(BIN)/python -m benchmarks.samples
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.readme

quality: plugins  ## The demo model in our formats and in llama.cpp's, which it builds (needs cmake).
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[cpu,build,verify,bench]"
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.readme

eval: plugins  ## What the demo engine solves of the suites that need no file: some six minutes of the processor.
	test -d engines/demo-int4 || $(BIN)/trtcoder build demo/checkpoint --out engines/demo-int4 --weights int4
	$(BIN)/trtcoder eval engines/demo-int4 --form complete --needle-lengths 256,512,1024,2048,4096 --force --attach --out engines/demo-int4.eval.json

bench-eval: plugins  ## The same in fp32, int8, int4 and mixed, paired problem by problem.
	$(BIN)/python -m benchmarks.evaluation
	$(BIN)/python -m benchmarks.readme

bench-needle: plugins  ## Needles in up to 128K tokens on one of a Lite's layers: half an hour.
	$(BIN)/python -m benchmarks.needle
	$(BIN)/python -m benchmarks.readme

bench-kernels: plugins  ## Our kernels beside ONNX Runtime's own at Lite's shapes: five minutes.
	$(BIN)/python -m benchmarks.kernels

bench-cpu: bench-extra  ## A whole Lite on our kernels, on ONNX Runtime's and in llama.cpp (needs cmake, 28 GB in ~/.cache, an hour). ARGS='--isa avx2 --minutes 25'.
	$(BIN)/python -m benchmarks.cpu $(ARGS)
	$(BIN)/python -m benchmarks.cpu_profile
	$(BIN)/python -m benchmarks.readme

bench-contention: bench-extra  ## What decoding keeps of its speed beside busy programs: ten minutes.
	$(BIN)/python -m benchmarks.contention
	$(BIN)/python -m benchmarks.readme

bench-batching: plugins  ## How many answers change with what else is asked.
	$(BIN)/python -m benchmarks.batching

bench-fp8: $(STAMP)  ## What float8 costs the demo model, part by part: ten minutes.
	$(BIN)/python -m benchmarks.fp8

bench-fim: plugins  ## What each option of filling in the middle does on the demo engine: ten minutes.
	$(BIN)/python -m benchmarks.fim

load: bench-extra  ## Streams over real sockets beside llama-server, which it builds: twenty minutes.
	$(BIN)/python -m benchmarks.load
	$(BIN)/python -m benchmarks.readme

keystrokes: bench-extra  ## An editor session beside llama-server's /infill: ten minutes.
	$(BIN)/python -m benchmarks.keystrokes
	$(BIN)/python -m benchmarks.readme

bench-extra: plugins
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[cpu,build,serve,verify,bench]"

bench-overhead: plugins  ## What the core and HTTP cost beside the session alone: five minutes.
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.readme

bench-triton: plugins  ## What a token costs inside Triton: five minutes.
	$(BIN)/python -m benchmarks.triton
	$(BIN)/python -m benchmarks.readme

bench-sampler: $(STAMP)  ## What choosing a token costs at Lite's vocabulary: a minute.
	$(BIN)/python -m benchmarks.sampler
	$(BIN)/python -m benchmarks.readme

bench-speculation: plugins  ## What drafts from the prompt gain and cost: ten minutes.
	$(BIN)/python -m benchmarks.speculation
	$(BIN)/python -m benchmarks.readme

bench-plans: rtx  ## What compiling plans takes at the published widths: five minutes, 7 GB of memory.
	$(BIN)/python -m benchmarks.plans --model lite --layers 14
	$(BIN)/python -m benchmarks.plan_forms
	$(BIN)/python -m benchmarks.plans --model lite --layers 7 --weights int4+fp8
	$(BIN)/python -m benchmarks.plans --model lite --layers 7 --weights int4+fp8 --activations static
	$(BIN)/python -m benchmarks.plans --model 236b --layers 2

bench-startup: plugins  ## From the start of `trtcoder serve` to its readiness.
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.readme

chaos: plugins  ## Bad clients, endings, too little cache, jumping clocks; 100,000 requests.
	$(BIN)/python -m benchmarks.chaos
	$(BIN)/python -m benchmarks.readme

clients: plugins  ## Real clients on loopback alone: four minutes, and 4 GB in ~/.cache. ONLY=aider, ARGS=--json.
	test -d engines/demo-int4 || $(BIN)/trtcoder build demo/checkpoint --out engines/demo-int4 --weights int4
	$(BIN)/python -m tests.clients $(addprefix --only ,$(ONLY)) $(ARGS)

ray: plugins  ## vLLM's router and a real Ray over our servers, one of each killed: five minutes, and 1 GB in ~/.cache.
	test -d engines/demo-int4 || $(BIN)/trtcoder build demo/checkpoint --out engines/demo-int4 --weights int4
	$(BIN)/python -m tests.scale router ray

k8s: $(STAMP)  ## The chart through the real helm, and the manifests against Kubernetes' schemas: 400 MB in ~/.cache.
	$(BIN)/python -m tests.scale k8s

triton: plugins  ## A real Triton Inference Server: three minutes, and a gigabyte in ~/.cache.
	test -d engines/demo-int4 || $(BIN)/trtcoder build demo/checkpoint --out engines/demo-int4 --weights int4
	$(BIN)/python -m tests.runtime.triton.server.installation
	TRTCODER_TRITON=1 $(BIN)/python -m pytest tests/runtime/triton

rtx: $(STAMP)  ## TensorRT-RTX and its plugins, which compile plans without a GPU: 250 MB.
	$(BIN)/pip install --quiet --disable-pip-version-check "tensorrt-rtx-cu13>=1.7,<1.8"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0

targets: rtx  ## Checkpoints, plans and engines for GPUs, read by readers that are not ours: half an hour, and 7 GB in ~/.cache. ONLY=transformers.
	$(BIN)/python -m tests.targets $(foreach reader,$(ONLY),--only $(reader)) $(ARGS)

optimum: plugins  ## optimum-cli and transformers' generation over engines of the demo model: two minutes, and 1 GB in ~/.cache.
	$(BIN)/python -m tests.optimum

gpu:  ## What only a GPU shows, without a network: ten minutes on an H100; see docs/gpu.md. STEPS="moe demo".
	$(PYTHON) -m tests.gpu $(STEPS)

gpu-prepare: plugins  ## What make gpu needs, made where a network is: engines/gpu, 275 MB.
	$(BIN)/python -m tests.gpu.prepare

fuzz-http: $(STAMP)  ## Thousands of requests, right and wrong, made from the OpenAPI document: five minutes.
	$(BIN)/python -m tests.runtime.server.fuzz

build-lite: plugins  ## A Lite of full shape with random weights, streamed, killed, resumed: 60 GB of disk, half an hour.
	$(BIN)/python -m benchmarks.lite

demo-train: $(STAMP)  ## Train the demo checkpoint again (76 minutes on 2 cores).
	$(BIN)/python -m demo.recipe

cli-docs: $(STAMP)  ## Write docs/cli.md from --help.
	$(BIN)/python docs/cli.py

page:  ## Bundle what the page uses of CodeMirror anew (needs node and npm).
	cd $(PAGE)/bundle && npm ci --ignore-scripts --no-audit --no-fund && npm run build && rm -rf node_modules

screenshots: $(STAMP) plugins  ## The page's pictures in docs/images, from the demo engine (needs Chromium).
	$(BIN)/python -m docs.screenshots

clean:
	rm -rf engines build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Back ends in libraries of their own, which the engine opens where they are named.

# For the tests alone: the CPU's, with devices that fail.
FAKE_SRC := $(wildcard kernels/fake/*.c)
$B/t/libaiq_fake.so: $(patsubst %.c,$B/obj/%.o,$(FAKE_SRC) $(wildcard kernels/cpu/*.c))
	$(LINK) -shared -pthread -lm

# As NVIDIA's driver has one; in a folder of its own, for LD_LIBRARY_PATH.
$B/t/nvml/libnvidia-ml.so.1: $B/obj/t/unit/fake_nvml.o
	$(LINK) -shared

# CUDA's, where its compiler is; without one nothing else is missing.
CUDA_SRC := $(wildcard kernels/cuda/*.cu)
CUDA_HDR := $(wildcard kernels/cuda/*.h) kernels/aiq_kernels.h
NVCC ?= $(shell command -v nvcc)
NVCC_HOME := $(if $(NVCC),$(abspath $(dir $(realpath $(NVCC)))/..))
NVCC_ARCH := $(foreach a,80 90,-gencode arch=compute_$a,code=sm_$a) -gencode arch=compute_90,code=compute_90
NVCC_FLAGS := -std=c++20 -O3 -lineinfo -I. $(NVCC_ARCH) -Xcompiler -fPIC,-fvisibility=hidden,-Wall
# CUDA 12 or newer, with its library of products.
CUDA := $(and $(filter release,$(BUILD)),$(NVCC),$(wildcard $(NVCC_HOME)/include/cublasLt.h),$(shell $(NVCC) --help 2>&1 | grep -o -m1 'c++20'))
ifneq ($(CUDA),)
all: $B/libaiq_cuda.so
GPU_PEERS := $B/bench/gpu_peers
endif
$B/obj/%.cu.o: %.cu $(CUDA_HDR)
	@mkdir -p $(@D); $(call say,NVCC) $(NVCC) $(NVCC_FLAGS) -c $< -o $@
$B/libaiq_cuda.so: $(CUDA_SRC:%=$B/obj/%.o)
	@$(call say,LD) $(NVCC) -shared -cudart static $^ -lcublasLt -o $@
$B/bench/gpu_peers: $B/obj/t/bench/gpu_peers.cu.o $B/obj/kernels/cuda/blas.cu.o
	@mkdir -p $(@D); $(call say,LD) $(NVCC) -cudart static $^ -lcublasLt -o $@

# The same sources by a plain compiler, on threads that take turns: for the tests.
EMULATED_SRC := $(filter-out kernels/cuda/blas.cu,$(CUDA_SRC)) t/cuda/emulate.cc t/cuda/blas.cc
CXXFLAGS_ALL = -std=c++20 -D_GNU_SOURCE -g -fPIC -fvisibility=hidden -pthread $(OPT_$(BUILD)) -Wall -Wextra -Wshadow \
               -Wno-unknown-pragmas -Wno-missing-field-initializers $(if $(CI),-Werror) -I. -DAIQ_CUDA_EMULATED
$B/obj/emulated/%.o: % $(CUDA_HDR) t/cuda/emulate.h $B/flags
	@mkdir -p $(@D); $(call say,CXX) $(CXX) $(CXXFLAGS_ALL) -x c++ -c $< -o $@
$B/t/cuda/libaiq_emulated.so: $(EMULATED_SRC:%=$B/obj/emulated/%.o)
	@mkdir -p $(@D); $(call say,LD) $(CXX) $(CXXFLAGS_ALL) -shared $^ -o $@

# They open it.
$B/t/test_devices $B/t/test_embedder_devices $B/t/test_infer_devices $B/t/test_infer_replicas: | $B/t/libaiq_fake.so
ifeq ($(shell uname -m),x86_64)
$B/t/test_cuda $B/t/test_encoder $B/t/test_topk: | $B/t/cuda/libaiq_emulated.so
endif

# The arithmetic of where things lie on a device, on the host.
UNIT += $B/t/test_cuda_index
$B/t/test_cuda_index: $B/obj/emulated/t/cuda/test_index.cc.o
	@mkdir -p $(@D); $(call say,LD) $(CXX) $(CXXFLAGS_ALL) $^ -lcmocka -o $@

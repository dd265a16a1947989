# Back ends in libraries of their own, which the engine opens where they are named.

# For the tests alone: the CPU's, with devices that fail.
FAKE_SRC := $(wildcard kernels/fake/*.c)
$B/t/libaiq_fake.so: $(patsubst %.c,$B/obj/%.o,$(FAKE_SRC) $(wildcard kernels/cpu/*.c))
	$(LINK) -shared -pthread -lm

# As NVIDIA's driver has one; in a folder of its own, for LD_LIBRARY_PATH.
$B/t/nvml/libnvidia-ml.so.1: $B/obj/t/unit/fake_nvml.o
	$(LINK) -shared

# They open it.
$B/t/test_devices $B/t/test_infer_devices: | $B/t/libaiq_fake.so

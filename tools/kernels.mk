# Back ends in libraries of their own, which the engine opens where they are named.

# For the tests alone: the CPU's, with devices that fail.
FAKE_SRC := $(wildcard kernels/fake/*.c)
$B/t/libaiq_fake.so: $(patsubst %.c,$B/obj/%.o,$(FAKE_SRC) $(wildcard kernels/cpu/*.c))
	$(LINK) -shared -pthread -lm

# They open it.
$B/t/test_devices $B/t/test_infer_devices: | $B/t/libaiq_fake.so

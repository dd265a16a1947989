/* The choice among the versions of the operations, by CPUID. */
#include "kernels/cpu/ops.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Bits of leaf 7, subleaf 0 and 1, that compilers of our age don't all know by name. */
enum {
    EDX_AMX_BF16 = 1 << 22,
    EDX_AMX_TILE = 1 << 24,
    EDX_AMX_INT8 = 1 << 25,
    EAX_AVX512_BF16 = 1 << 5
};

static bool has_f16c(void)
{
    unsigned int a, b, c, d;

    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* The instructions, and the kernel's leave to use the 8 KB of registers. */
static bool has_amx(void)
{
    enum { REQUEST = 0x1023 /* ARCH_REQ_XCOMP_PERM */, TILE_DATA = 18 };
    unsigned int a, b, c, d;

    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & EDX_AMX_BF16) ||
        !(d & EDX_AMX_TILE) || !(d & EDX_AMX_INT8) ||
        !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & EAX_AVX512_BF16)) {
        return false;
    }
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

const cpu_ops *const *cpu_ops_usable(void)
{
    static const cpu_ops *const all[] = {&cpu_ops_amx,  &cpu_ops_vnni,  &cpu_ops_avx512,
                                         &cpu_ops_avx2, &cpu_ops_plain, NULL};
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                  __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512dq");
    bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");

    if (vnni) {
        return has_amx() ? all : all + 1;
    }
    return avx512 ? all + 2 : avx2 ? all + 3 : all + 4;
}

#else

const cpu_ops *const *cpu_ops_usable(void)
{
    static const cpu_ops *const all[] = {&cpu_ops_plain, NULL};

    return all;
}

#endif

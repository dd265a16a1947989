/*
 * How fast threads can read a file that is in memory: what a model's tokens cost at least.
 *
 *     read FILE THREADS
 *
 * prints {"gbps":GB/s}, of the best of some passes.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "plain_read.h"

#define PASSES 7

int main(int argc, char **argv)
{
    int n = argc == 3 ? atoi(argv[2]) : 0, fd = n > 0 ? open(argv[1], O_RDONLY) : -1;
    struct stat st;
    double best = 0;
    const void *data;

    if (fd < 0 || n > PLAIN_READ_THREADS || fstat(fd, &st) != 0) {
        die("usage: read FILE THREADS");
    }
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (data == MAP_FAILED) {
        die("%s cannot be read", argv[1]);
    }
    for (int i = 0; i < PASSES; i++) {
        double rate = plain_read(data, (size_t)st.st_size, n);

        best = rate > best ? rate : best;
    }
    printf("{\"gbps\":%.2f}\n", best);
    return 0;
}

/* Recorded streams, cut in two at every byte: the same must come of them. */

#ifndef AIQ_TEST_RECORDED_H
#define AIQ_TEST_RECORDED_H

#include "unit.h"
#include "core/pool.h"

#include <glob.h>
#include <stdio.h>

/* What comes of a stream that is cut at `split`. */
typedef aiq_buf (*recorded_replay)(const uint8_t *data, size_t n, size_t split);

/* whole: is told of each stream's result, once; NULL: nobody is. Skips the test where there
 * are no files of this pattern. */
static void recorded_at_every_split(const char *pattern, recorded_replay replay,
                                    void (*whole)(aiq_buf *result))
{
    static uint8_t data[65536];
    glob_t files;

    if (glob(pattern, 0, NULL, &files) != 0) {
        skip();
    }
    for (size_t i = 0; i < files.gl_pathc; i++) {
        FILE *f = fopen(files.gl_pathv[i], "rb");
        size_t n = fread(data, 1, sizeof(data), f);
        fclose(f);
        aiq_buf once = replay(data, n, n);
        for (size_t split = 0; split < n; split++) {
            aiq_buf run = replay(data, n, split);
            assert_int_equal(run.len, once.len);
            assert_memory_equal(run.data, once.data, run.len);
            aiq_buf_free(&run);
        }
        if (whole) {
            whole(&once);
        }
        aiq_buf_free(&once);
    }
    globfree(&files);
}

#endif

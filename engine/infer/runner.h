/*
 * A model on a device: opened, loaded, run, freed.
 *
 * A device of its own, a GPU, may stop answering in any of these: its driver then never comes
 * back. So each of its runners has a thread that calls into it (watched.h), and a call that
 * takes longer than the back end allows (aiq_kernels.h, limit_ms) is given up: the device is
 * lost, to everybody, for as long as the list of devices lives. All that such a call may touch
 * is the runner's own, copies or shares: its batch, what comes of it, the model, the file. It
 * is freed when the call comes back, or never. The CPU has no limit: it is called straight,
 * and nothing is copied for it.
 */
#ifndef INFER_RUNNER_H
#define INFER_RUNNER_H

#include <stddef.h>

#include "infer/devices.h"
#include "infer/gguf.h"
#include "infer/model.h"
#include "infer/watched.h"

typedef struct runner runner;

/* What a model is wanted for. */
typedef struct {
    uint32_t max_batch; /* tokens of a call */
    uint32_t max_parts; /* sequences of a step, or texts */
    uint32_t max_rows;  /* that come of a call */
    uint32_t row;       /* numbers in one */
    uint32_t n_pages;   /* of contexts; 0: for texts alone */
} runner_shape;

/* Opens a device that devices_take has given. It is given back by runner_close, or here where
 * this fails: NULL, and err says why, which is told of the device. wanted may be NULL, and is
 * asked in this and in all other calls (watched.h). Blocks, as all do. */
runner *runner_open(devices *list, const device *place, uint32_t n_threads,
                    watched_wanted wanted, void *arg, char *err, size_t errlen);

uint64_t runner_page_bytes(const runner *r, const kern_config *config);

/* Once. model is copied, file is shared. False: runner_error says why, and it is for
 * runner_close only; so with those below. */
bool runner_load(runner *r, const infer_model *model, gguf *file, const runner_shape *shape);

/* As the kernels' step and encode. What comes of it is the runner's, to be written to, until
 * the next call; NULL: it has failed. */
float *runner_step(runner *r, const kern_seq *seqs, uint32_t n);
float *runner_encode(runner *r, const kern_text *texts, uint32_t n, kern_pooling pooling);

/* Of the last call, which has failed. */
const char *runner_error(const runner *r);

/* failure: why the model cannot stay, which is told of the device; NULL: it can. May be the
 * runner's own error. */
void runner_close(runner *r, const char *failure);

#endif

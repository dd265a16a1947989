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

/* Where a model may be, of all its replicas. Outlives them. */
typedef struct {
    devices *list;
    uint32_t tried;    /* devices, see devices_take: each has one replica at most */
    const char *model; /* its name, for what is told of devices; NULL: none */
    uint32_t n_threads;
    watched_wanted wanted; /* asked in all calls (watched.h), and before each device */
    void *arg;
} runner_places;

/* Makes a replica ready on the device that is opened for it, with runner_load. NULL, or why it
 * cannot be there. */
typedef const char *(*runner_fill)(void *replica, runner *r);

/* A runner on the next device that has room for bytes, on the CPU only where it is wanted; for
 * runner_close. number: of the replica, from 1. Those where it fails are told why. NULL:
 * nowhere, and err is why not on the last; it stays where none was tried. Blocks, as all calls
 * do. */
runner *runner_settle(runner_places *places, uint32_t number, uint64_t bytes, bool or_cpu,
                      runner_fill fill, void *replica, char *err, size_t errlen);

/* As the kernels' (aiq_kernels.h). */
uint64_t runner_page_bytes(const runner *r, const kern_config *config);
uint32_t runner_batch_tokens(const runner *r);

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

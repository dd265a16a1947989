/* One step: the rows of all sequences through the layers, then the logits that are wanted. */
#include "kernels/cuda/cuda.h"

#include <string.h>

/* Logits of n of the wanted rows, from the first of them. */
static bool output(kern_model *m, uint32_t first, uint32_t n)
{
    const product p = {&m->weights.out, m->logits};

    ops_norm_out(m, m->xb, first, n);
    if (!layers_multiply(m, m->xb, n, &p, 1, false)) {
        return false;
    }
    if (m->config.logit_cap != 0) {
        ops_cap_logits(m, n);
    }
    return true;
}

/* --- graphs --- */

enum { NEVER, ONCE, RECORDED, UNFIT };

/* The launches of a step of n rows, all of which are wanted; NULL: they cannot be recorded. */
static cudaGraphExec_t record(kern_model *m, uint32_t n)
{
    cudaStream_t stream = m->dev->stream;
    cudaGraphExec_t play = NULL;
    cudaGraph_t graph = NULL;
    bool ok;

    if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        return NULL;
    }
    ok = layers_run(m, n, false) && output(m, 0, n);
    if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && ok &&
        cudaGraphInstantiate(&play, graph, 0) != cudaSuccess) {
        play = NULL;
    }
    if (graph != NULL) {
        cudaGraphDestroy(graph);
    }
    cudaGetLastError(); /* what cannot be recorded is no error: it is done without */
    return play;
}

/* The first time as it is, for the driver to load what it needs; then from the record. */
static bool run(kern_model *m, uint32_t n)
{
    if (m->seen[n] == ONCE) {
        m->play[n] = record(m, n);
        m->seen[n] = m->play[n] != NULL ? RECORDED : UNFIT;
    }
    if (m->seen[n] == RECORDED) {
        return device_check(m->dev, cudaGraphLaunch(m->play[n], m->dev->stream), "a step");
    }
    if (m->seen[n] == NEVER) {
        m->seen[n] = ONCE;
    }
    return layers_run(m, n, false) && output(m, 0, n);
}

/* --- rows --- */

row_arrays step_rows(uint32_t *memory, uint32_t n)
{
    row_arrays r;

    r.ids = (int32_t *)memory;
    r.pos = memory + n;
    r.end = r.pos + n;
    r.first = r.end + n;
    r.base = r.first + n;
    r.out = r.base + n;
    r.loose = r.out + n;
    r.tile = r.loose + n;
    r.of_tile = r.tile + n;
    r.pages = r.of_tile + n;
    r.n_loose = r.n_tiles = 0;
    return r;
}

void step_add_rows(row_arrays *to, uint32_t first, uint32_t n, bool tiled)
{
    tiled = tiled && n >= TILED_FROM;
    for (uint32_t i = 0; i < n; i += tiled ? TILE_ROWS : 1) {
        if (tiled) {
            to->of_tile[to->n_tiles] = least(n - i, TILE_ROWS);
            to->tile[to->n_tiles++] = first + i;
        } else {
            to->loose[to->n_loose++] = first + i;
        }
    }
}

bool step_put_rows(kern_model *m, const row_arrays *host, uint32_t n, uint32_t n_pages)
{
    uint64_t numbers = (uint64_t)n * ROW_ARRAYS + n_pages;

    m->rows = step_rows(m->row_numbers, n);
    m->rows.n_loose = host->n_loose;
    m->rows.n_tiles = host->n_tiles;
    return device_check(m->dev,
                        cudaMemcpyAsync(m->row_numbers, m->host_rows,
                                        numbers * sizeof(*m->row_numbers),
                                        cudaMemcpyHostToDevice, m->dev->stream),
                        "a step");
}

/* Rows of a step, of which so many are wanted. */
struct counts {
    uint32_t rows;
    uint32_t out;
};

static counts count(const kern_seq *seqs, uint32_t n_seqs)
{
    counts c = {0, 0};

    for (uint32_t s = 0; s < n_seqs; s++) {
        c.rows += seqs[s].n;
        c.out += least(seqs[s].n_logits, seqs[s].n);
    }
    return c;
}

/* What the step is about, to the device; n rows, those that are too many on a page of their
 * own. */
static bool fill(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, uint32_t n, bool tiled)
{
    row_arrays to = step_rows(m->host_rows, n);
    uint32_t row = 0, n_pages = 0, n_out = 0;

    for (uint32_t s = 0; s < n_seqs; s++) {
        uint32_t pages = divide_up(seqs[s].pos + seqs[s].n, KERN_PAGE);

        step_add_rows(&to, row, seqs[s].n, tiled);
        for (uint32_t i = 0; i < seqs[s].n; i++, row++) {
            to.ids[row] = seqs[s].ids[i];
            to.pos[row] = seqs[s].pos + i;
            to.end[row] = to.pos[row] + 1;
            to.first[row] = n_pages;
            to.base[row] = 0;
            if (i + seqs[s].n_logits >= seqs[s].n) {
                to.out[n_out++] = row;
            }
        }
        memcpy(to.pages + n_pages, seqs[s].pages, pages * sizeof(*to.pages));
        n_pages += pages;
    }
    to.pages[n_pages] = m->n_pages;
    step_add_rows(&to, row, n - row, false);
    for (; row < n; row++) {
        to.ids[row] = 0;
        to.pos[row] = 0;
        to.end[row] = 1;
        to.first[row] = n_pages;
        to.base[row] = 0;
        to.out[n_out++] = row;
    }
    return step_put_rows(m, &to, n, n_pages + 1);
}

bool step_fetch(kern_model *m, const float *from, uint64_t n, float *to)
{
    return device_check(m->dev, cudaGetLastError(), "a step") &&
           (n == 0 || device_check(m->dev,
                                   cudaMemcpyAsync(to, from, n * sizeof(*to),
                                                   cudaMemcpyDeviceToHost, m->dev->stream),
                                   "a step")) &&
           device_check(m->dev, cudaStreamSynchronize(m->dev->stream), "a step");
}

bool step_run(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, float *logits)
{
    counts c = count(seqs, n_seqs);
    uint64_t n_vocab = m->config.n_vocab;
    uint32_t done = 0;

    if (!device_check(m->dev, cudaSetDevice((int)m->dev->index), "a step")) {
        return false;
    }
    if (c.out == c.rows && c.rows <= GRAPH_ROWS) {
        uint32_t n = least(recorded_rows(c.rows), m->max_batch);

        return fill(m, seqs, n_seqs, n, false) && run(m, n) &&
               step_fetch(m, m->logits, c.out * n_vocab, logits);
    }
    if (!fill(m, seqs, n_seqs, c.rows, layers_by_library(&m->layers[0].wq, c.rows)) ||
        !layers_run(m, c.rows, false)) {
        return false;
    }
    do {
        uint32_t some = least(c.out - done, OUT_ROWS);

        if ((some > 0 && !output(m, done, some)) ||
            !step_fetch(m, m->logits, some * n_vocab, logits + done * n_vocab)) {
            return false;
        }
        done += some;
    } while (done < c.out);
    return true;
}

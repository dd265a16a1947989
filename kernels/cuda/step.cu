/* One step: the rows of all sequences through the layers, then the logits that are wanted. */
#include "kernels/cuda/cuda.h"

#include <string.h>

/* So many tokens are worth unpacking weights for the tensor cores; fewer read them once for
 * each eight. BF16 need not be unpacked. */
#define UNPACK_FROM 25
#define BF16_FROM   9

static bool by_library(const kern_tensor *w, uint32_t n)
{
    return w->type != KERN_F32 && n >= (w->type == KERN_BF16 ? BF16_FROM : UNPACK_FROM);
}

/* Products of one input; those of one type go together. */
static bool multiply(kern_model *m, const float *x, uint32_t n, const product *p, uint32_t n_p,
                     bool add)
{
    for (uint32_t i = 0, run; i < n_p; i += run) {
        run = 1;
        while (i + run < n_p && p[i + run].w->type == p[i].w->type) {
            run++;
        }
        if (!by_library(p[i].w, n)) {
            gemv_run(m, x, n, p + i, run, add ? PRODUCT_ADD : PRODUCT_STORE);
        } else if (!gemm_run(m, x, n, p + i, run, add)) {
            return false;
        }
    }
    return true;
}

/* What a block made of the stream goes back to it, by way of a norm where there is one. */
static bool add_to_stream(kern_model *m, const float *x, const kern_tensor *w,
                          const float *norm, uint32_t n)
{
    const product p = {w, norm != NULL ? m->xb : m->x};

    if (!multiply(m, x, n, &p, 1, norm == NULL)) {
        return false;
    }
    if (norm != NULL) {
        ops_norm_add(m, norm, n);
    }
    return true;
}

static bool feed_forward(kern_model *m, const kern_layer *w, uint32_t n)
{
    const product p[] = {{&w->w_gate, m->gate}, {&w->w_up, m->up}};

    ops_norm(m, m->xb, m->x, w->ffn_norm, n);
    if (w->w_gate.type == w->w_up.type && !by_library(&w->w_gate, n)) {
        gemv_run(m, m->xb, n, p, 2, PRODUCT_GATED);
    } else if (multiply(m, m->xb, n, p, 2, false)) {
        ops_gated(m, n);
    } else {
        return false;
    }
    return add_to_stream(m, m->gate, &w->w_down, w->ffn_post, n);
}

static bool layers(kern_model *m, uint32_t n)
{
    ops_embed(m, n);
    ops_angles(m, n);
    for (uint32_t i = 0; i < m->config.n_layers; i++) {
        const kern_layer *w = &m->layers[i];
        const product qkv[] = {{&w->wq, m->q}, {&w->wk, m->k}, {&w->wv, m->v}};

        ops_norm(m, m->xb, m->x, w->attn_norm, n);
        if (!multiply(m, m->xb, n, qkv, 3, false)) {
            return false;
        }
        ops_prepare(m, i, n);
        attention_run(m, i, n);
        if (!add_to_stream(m, m->att, &w->wo, w->attn_post, n) || !feed_forward(m, w, n)) {
            return false;
        }
    }
    return true;
}

/* Logits of n of the wanted rows, from the first of them. */
static bool output(kern_model *m, uint32_t first, uint32_t n)
{
    const product p = {&m->weights.out, m->logits};

    ops_norm_out(m, m->xb, first, n);
    if (!multiply(m, m->xb, n, &p, 1, false)) {
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
    ok = layers(m, n) && output(m, 0, n);
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
static bool run(kern_model *m, uint32_t n, uint32_t n_out)
{
    if (n > GRAPH_ROWS || n_out != n) {
        return layers(m, n);
    }
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
    return layers(m, n) && output(m, 0, n);
}

/* --- rows --- */

/* What the step is about, to the device. Returns the number of rows; *n_out: those wanted. */
static uint32_t fill(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, uint32_t *n_out,
                     bool *ok)
{
    step_rows to;
    uint32_t n = 0, n_pages = 0, B = m->max_batch;

    to.ids = (int32_t *)m->host_rows;
    to.pos = (uint32_t *)to.ids + B;
    to.first = to.pos + B;
    to.out = to.first + B;
    to.pages = to.out + B;
    *n_out = 0;
    for (uint32_t s = 0; s < n_seqs; s++) {
        uint32_t pages = divide_up(seqs[s].pos + seqs[s].n, KERN_PAGE);

        for (uint32_t i = 0; i < seqs[s].n; i++, n++) {
            to.ids[n] = seqs[s].ids[i];
            to.pos[n] = seqs[s].pos + i;
            to.first[n] = n_pages;
            if (i + seqs[s].n_logits >= seqs[s].n) {
                to.out[(*n_out)++] = n;
            }
        }
        memcpy(to.pages + n_pages, seqs[s].pages, pages * sizeof(*to.pages));
        n_pages += pages;
    }
    *ok = device_check(m->dev,
                       cudaMemcpyAsync(m->rows.ids, m->host_rows,
                                       ((uint64_t)B * 4 + n_pages) * sizeof(uint32_t),
                                       cudaMemcpyHostToDevice, m->dev->stream),
                       "a step");
    return n;
}

/* Waits for n rows of logits. */
static bool fetch(kern_model *m, uint32_t n, float *logits)
{
    uint64_t bytes = (uint64_t)n * m->config.n_vocab * sizeof(*logits);

    if (!device_check(m->dev, cudaGetLastError(), "a step") ||
        (n > 0 && !device_check(m->dev,
                                cudaMemcpyAsync(m->host_logits, m->logits, bytes,
                                                cudaMemcpyDeviceToHost, m->dev->stream),
                                "a step")) ||
        !device_check(m->dev, cudaStreamSynchronize(m->dev->stream), "a step")) {
        return false;
    }
    if (n > 0) {
        memcpy(logits, m->host_logits, bytes);
    }
    return true;
}

bool step_run(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, float *logits)
{
    uint32_t n, n_out, done = 0;
    bool ok = device_check(m->dev, cudaSetDevice((int)m->dev->index), "a step");

    if (!ok) {
        return false;
    }
    n = fill(m, seqs, n_seqs, &n_out, &ok);
    if (!ok || !run(m, n, n_out)) {
        return false;
    }
    if (n <= GRAPH_ROWS && n_out == n) {
        return fetch(m, n, logits);
    }
    do {
        uint32_t some = least(n_out - done, OUT_ROWS);

        if ((some > 0 && !output(m, done, some)) ||
            !fetch(m, some, logits + (uint64_t)done * m->config.n_vocab)) {
            return false;
        }
        done += some;
    } while (done < n_out);
    return true;
}

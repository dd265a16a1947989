#include "vectors/vectors.h"

#include <stdlib.h>
#include <string.h>

/* What malloc keeps for a piece. */
#define OVERHEAD 16

/* A place in each table for so many bytes of the bound. */
#define BYTES_A_PLACE 2048
#define BITS_MAX      22

typedef struct partition partition;

typedef struct entry {
    struct entry *next;          /* in its place of the table */
    struct entry *newer, *older; /* in the order of use */
    partition *of;
    uint32_t row;
    uint64_t id;
    uint64_t stored_ms, expires_ms;
    size_t len;
    char data[];
} entry;

/* Never empty. Row i is entries[i]'s. */
struct partition {
    partition *next; /* in its place of the table */
    uint8_t key[VECTORS_KEY];
    uint32_t dims, n, room;
    uint64_t expires_ms; /* nothing does before */
    uint16_t *rows;      /* [room][dims] */
    entry **entries;     /* [room] */
};

struct vectors {
    kern_device *device;
    uint64_t seed;
    size_t max;    /* without the tables */
    unsigned bits; /* of the tables' size */
    entry **ids;
    partition **partitions;
    entry *newest, *oldest;
    vectors_stats stats;
};

static unsigned table_bits(size_t max)
{
    unsigned bits = 1;

    while (bits < BITS_MAX && (size_t)2 << bits <= max / BYTES_A_PLACE) {
        bits++;
    }
    return bits;
}

vectors *vectors_new(size_t max, uint64_t seed, uint32_t threads)
{
    vectors *v = aiq_zalloc(sizeof(*v));

    v->device = aiq_kernels_cpu.open(0, threads);
    if (v->device == NULL) {
        free(v);
        return NULL;
    }
    v->bits = table_bits(max);
    size_t size = sizeof(void *) << v->bits;
    v->ids = aiq_zalloc(size);
    v->partitions = aiq_zalloc(size);
    v->max = max > 2 * size ? max - 2 * size : 0;
    v->seed = seed | 1;
    return v;
}

/* The product's upper bits depend on all of the number's and of the seed's. */
static size_t place(const vectors *v, uint64_t n)
{
    return (size_t)(n * v->seed >> (64 - v->bits));
}

static entry **find_id(const vectors *v, uint64_t id)
{
    entry **at = &v->ids[place(v, id)];

    while (*at && (*at)->id != id) {
        at = &(*at)->next;
    }
    return at;
}

static partition **find_partition(const vectors *v, const uint8_t key[VECTORS_KEY])
{
    uint64_t head;

    memcpy(&head, key, sizeof(head));
    partition **at = &v->partitions[place(v, head)];
    while (*at && memcmp((*at)->key, key, VECTORS_KEY) != 0) {
        at = &(*at)->next;
    }
    return at;
}

/* What it costs. */

static size_t row_cost(uint32_t dims)
{
    return dims * sizeof(uint16_t) + sizeof(entry *);
}

static size_t entry_cost(size_t len)
{
    return sizeof(entry) + len + OVERHEAD;
}

static size_t partition_cost(void)
{
    return sizeof(partition) + (size_t)3 * OVERHEAD;
}

/* The order of use. */

static void unlink_use(vectors *v, entry *e)
{
    *(e->newer ? &e->newer->older : &v->newest) = e->older;
    *(e->older ? &e->older->newer : &v->oldest) = e->newer;
}

static void link_newest(vectors *v, entry *e)
{
    e->newer = NULL;
    e->older = v->newest;
    *(v->newest ? &v->newest->newer : &v->oldest) = e;
    v->newest = e;
}

/* Rows. */

static void set_room(vectors *v, partition *p, uint32_t room)
{
    uint16_t *rows = realloc(p->rows, (size_t)room * p->dims * sizeof(*rows));
    entry **entries = realloc(p->entries, room * sizeof(*entries));

    if (rows == NULL || entries == NULL) {
        abort(); /* as aiq_alloc() does */
    }
    v->stats.bytes += room * row_cost(p->dims);
    v->stats.bytes -= p->room * row_cost(p->dims);
    p->rows = rows;
    p->entries = entries;
    p->room = room;
}

/* Many partitions have one row or two, a few have all the rest: neither may waste much. */
static uint32_t next_room(uint32_t n)
{
    return n + n / 8 + 1;
}

static partition *new_partition(vectors *v, const vectors_item *item)
{
    partition *p = aiq_zalloc(sizeof(*p)), **at = find_partition(v, item->partition);

    memcpy(p->key, item->partition, VECTORS_KEY);
    p->dims = item->dims;
    p->expires_ms = UINT64_MAX;
    *at = p;
    v->stats.partitions++;
    v->stats.bytes += partition_cost();
    return p;
}

static void free_partition(vectors *v, partition *p)
{
    *find_partition(v, p->key) = p->next;
    v->stats.partitions--;
    v->stats.bytes -= partition_cost() + p->room * row_cost(p->dims);
    free(p->rows);
    free(p->entries);
    free(p);
}

/* The last row takes its place. */
static void take_row(vectors *v, partition *p, uint32_t row)
{
    uint32_t last = --p->n;

    if (last == 0) {
        free_partition(v, p);
        return;
    }
    if (row != last) {
        memcpy(p->rows + (size_t)row * p->dims, p->rows + (size_t)last * p->dims,
               p->dims * sizeof(*p->rows));
        p->entries[row] = p->entries[last];
        p->entries[row]->row = row;
    }
    if (p->n < p->room / 2) {
        set_room(v, p, next_room(p->n));
    }
}

static void take_out(vectors *v, entry *e)
{
    *find_id(v, e->id) = e->next;
    unlink_use(v, e);
    take_row(v, e->of, e->row);
    v->stats.bytes -= entry_cost(e->len);
    v->stats.vectors--;
    free(e);
}

void vectors_free(vectors *v)
{
    if (v == NULL) {
        return;
    }
    while (v->oldest) {
        take_out(v, v->oldest);
    }
    aiq_kernels_cpu.close(v->device);
    free(v->ids);
    free(v->partitions);
    free(v);
}

/* Changing. */

bool vectors_remove(vectors *v, uint64_t id)
{
    entry *e = *find_id(v, id);

    if (e) {
        take_out(v, e);
    }
    return e != NULL;
}

/* What this one takes, wherever it has to grow for it. */
static size_t need(const partition *p, const vectors_item *item)
{
    size_t own = entry_cost(item->data.len);

    if (p == NULL) {
        return own + partition_cost() + next_room(0) * row_cost(item->dims);
    }
    return p->n < p->room ? own : own + (next_room(p->n) - p->room) * row_cost(p->dims);
}

/* Who goes may be of the same partition, and its last. */
static partition *make_room(vectors *v, const vectors_item *item)
{
    for (;;) {
        partition *p = *find_partition(v, item->partition);

        if (need(p, item) <= v->max - v->stats.bytes) {
            return p;
        }
        take_out(v, v->oldest);
        v->stats.evictions++;
    }
}

bool vectors_add(vectors *v, const vectors_item *item)
{
    partition *p = *find_partition(v, item->partition);

    if (item->dims == 0 || item->dims > VECTORS_DIMS || (p && p->dims != item->dims) ||
        need(NULL, item) > v->max) {
        return false;
    }
    vectors_remove(v, item->id);
    p = make_room(v, item);
    p = p ? p : new_partition(v, item);
    if (p->n == p->room) {
        set_room(v, p, next_room(p->n));
    }
    entry *e = aiq_alloc(sizeof(*e) + item->data.len);
    *e = (entry){.of = p,
                 .row = p->n,
                 .id = item->id,
                 .stored_ms = item->stored_ms,
                 .expires_ms = item->expires_ms,
                 .len = item->data.len};
    if (e->len) {
        memcpy(e->data, item->data.data, e->len);
    }
    memcpy(p->rows + (size_t)p->n * p->dims, item->row, p->dims * sizeof(*p->rows));
    p->entries[p->n++] = e;
    p->expires_ms = p->expires_ms < e->expires_ms ? p->expires_ms : e->expires_ms;
    *find_id(v, e->id) = e;
    link_newest(v, e);
    v->stats.bytes += entry_cost(e->len);
    v->stats.vectors++;
    return true;
}

void vectors_use(vectors *v, uint64_t id)
{
    entry *e = *find_id(v, id);

    if (e) {
        unlink_use(v, e);
        link_newest(v, e);
    }
}

/* Looking. */

static void show(const entry *e, vectors_item *item)
{
    *item = (vectors_item){.id = e->id,
                           .dims = e->of->dims,
                           .row = e->of->rows + (size_t)e->row * e->of->dims,
                           .data = {e->data, e->len},
                           .stored_ms = e->stored_ms,
                           .expires_ms = e->expires_ms};
    memcpy(item->partition, e->of->key, VECTORS_KEY);
}

bool vectors_get(const vectors *v, uint64_t id, vectors_item *item)
{
    const entry *e = *find_id(v, id);

    if (e) {
        show(e, item);
    }
    return e != NULL;
}

/* False: nothing is left. */
static bool drop_expired(vectors *v, partition *p, uint64_t now_ms)
{
    uint64_t next = UINT64_MAX;

    if (now_ms < p->expires_ms) {
        return true;
    }
    for (uint32_t i = p->n; i-- > 0;) { /* what takes a row's place was looked at */
        const entry *e = p->entries[i];
        if (e->expires_ms > now_ms) {
            next = e->expires_ms < next ? e->expires_ms : next;
        } else if (p->n == 1) {
            take_out(v, p->entries[i]);
            return false;
        } else {
            take_out(v, p->entries[i]);
        }
    }
    p->expires_ms = next;
    return true;
}

uint32_t vectors_search(vectors *v, const uint8_t key[VECTORS_KEY], const float *query,
                        uint32_t dims, uint64_t now_ms, vectors_hit *hits, uint32_t n)
{
    partition *p = *find_partition(v, key);
    kern_hit best[KERN_TOPK_MAX];
    uint32_t found = 0;

    if (p == NULL || p->dims != dims || !drop_expired(v, p, now_ms)) {
        return 0;
    }
    kern_rows *rows = aiq_kernels_cpu.rows_load(v->device, p->rows, p->n, dims);
    if (rows == NULL || !aiq_kernels_cpu.topk(rows, query, n, best, &found)) {
        found = 0;
    }
    aiq_kernels_cpu.rows_free(rows);
    for (uint32_t i = 0; i < found; i++) {
        hits[i].score = best[i].score;
        show(p->entries[best[i].row], &hits[i].item);
    }
    return found;
}

void vectors_each(const vectors *v, vectors_fn fn, void *arg)
{
    vectors_item item;

    for (const entry *e = v->oldest; e; e = e->newer) {
        show(e, &item);
        fn(arg, &item);
    }
}

vectors_stats vectors_look(const vectors *v)
{
    return v->stats;
}

/* Numbers. */

static uint16_t round_f16(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) {
        return 0x7e00; /* NaN */
    }
    if (bits >= 0x477ff000) { /* 65520 and more */
        return sign | 0x7c00;
    }
    if (bits < 0x38800000) { /* subnormal: adding a half moves the last bit to the lowest */
        memcpy(&f, &bits, sizeof(f));
        f += 0.5f;
        memcpy(&bits, &f, sizeof(bits));
        return sign | (uint16_t)(bits - 0x3f000000);
    }
    bits += 0xfff + (bits >> 13 & 1); /* halves to the even one */
    return sign | (uint16_t)((bits >> 13) - (112 << 10));
}

void vectors_round(uint16_t *row, const float *x, uint32_t dims)
{
    for (uint32_t i = 0; i < dims; i++) {
        row[i] = round_f16(x[i]);
    }
}

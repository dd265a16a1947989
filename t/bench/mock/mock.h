/* What mock_provider.c (a server) and answers.c (what a model's name makes it say) share. */

#ifndef MOCK_H
#define MOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    char *data;
    size_t start, len, size; /* len bytes from start on */
} bytes;

typedef struct conn {
    int fd;
    uint32_t events;
    bytes in, out;
    bool closing; /* once out is sent */
    bool reset;   /* and with RST */
    bool hanging; /* says nothing more, and does not close */

    /* the stream under way: its text is made piece by piece */
    char model[96];
    bool streaming, usage, trickle;
    bool held; /* until GET /go */
    uint32_t frames, sent;
    uint64_t pace_ns, due_ns;
    uint32_t heap; /* place in the heap of timers; 0: none */
    size_t flood;  /* bytes of a flood that are still to come */
    struct conn *next_dead;
} conn;

typedef struct {
    int epoll, listener, record;
    const char *folder;
    uint64_t random;
    conn **timers; /* a heap by due_ns, from 1 */
    uint32_t n_timers, timer_size;
    conn *dead; /* freed at the end of a turn: events of it may still be due */
    uint64_t requests, open, aborted;
    struct {
        char model[96];
        unsigned seen;
    } firsts[64]; /* of mock-first-… */
} mock;

/* mock_provider.c */

void mock_add(bytes *b, const void *data, size_t n);
void mock_add_text(bytes *b, const char *text);
void mock_add_format(bytes *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
uint64_t mock_random(mock *m);
/* mock_stream_step() comes then. */
void mock_timer_start(mock *m, conn *c, uint64_t due_ns);

/* answers.c; all is put into c->out */

void mock_reply(conn *c, const char *status, const char *type, const char *headers,
                const char *body);
void mock_reply_error(conn *c, const char *status, const char *headers, const char *code);
/* A whole answer whose text has `filler` bytes. */
void mock_reply_answer(conn *c, size_t filler);
/* A stream of so many tokens; 0: as fast as it is read. */
void mock_run_stream(mock *m, conn *c, uint32_t frames, uint64_t pace_ns);
/* One of eight tokens that says so many of them, and the rest once it is released. */
void mock_run_held(mock *m, conn *c, uint32_t first);
/* Its next frame. */
void mock_stream_step(conn *c);
/* A recorded stream; false: there is none of this name. */
bool mock_replay(mock *m, conn *c, const char *name);
/* What a model's name says that the request shall get now; false: a reply. */
bool mock_run_kind(mock *m, conn *c, const char *head);

#endif

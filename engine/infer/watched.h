/*
 * Calls that may never return: into the driver of a device that has stopped answering. They
 * run on a thread of their own, and whoever waits for one gives it up after a time. The thread
 * cannot be ended then, so it is left behind. All that a call may touch is one object, which is
 * the thread's: a call that comes back after all finds it as it was, and then it is freed.
 */
#ifndef INFER_WATCHED_H
#define INFER_WATCHED_H

#include <stdbool.h>
#include <stdint.h>

typedef struct watched watched;

/* Whether whoever waits still has to, asked now and then on its thread; where not, it waits
 * WATCHED_GRACE_MS more at most: what is healthy comes to its end. */
typedef bool (*watched_wanted)(void *arg);

#define WATCHED_GRACE_MS 2000

/* Starts the thread. own: what its calls are about; end frees it, on the thread, at the latest
 * when the last call has returned. NULL: there is none, and own is still the caller's. */
watched *watched_new(void *own, void (*end)(void *own));

/*
 * Runs call(own) and waits. False: it has not returned within limit_ms, in which this process
 * ran; own must not be touched any more, and w is for watched_free only. wanted may be NULL.
 * One thread at a time.
 */
bool watched_call(watched *w, void (*call)(void *own), uint32_t limit_ms, watched_wanted wanted,
                  void *arg);

/* Ends the thread, and own with it. False: it is left behind, for a call was given up, or end
 * has not returned in its time. */
bool watched_free(watched *w, uint32_t limit_ms, watched_wanted wanted, void *arg);

#endif

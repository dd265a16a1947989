/*
 * Where models compute: the devices that a list such as "cuda:0,cuda:1" names, and the CPU,
 * which is always the last resort.
 *
 * Each name but cpu is a back end in a library, libaiq_NAME.so, loaded when the list is opened.
 * A library that is not there, that is no back end or one of another ABI is told and done
 * without: the CPU serves. NAME alone is all devices of it, "auto" all of the back end that
 * gives its devices the highest score, of those in the folder.
 *
 * A model is on one device at a time, or has replicas on several. Each is put where it has
 * room, and where the fewest models are; where that fails, at once or later, it goes on to the
 * next device that the model has not tried. One that does not answer is lost to all models.
 * No code here knows a model but by its name: it hands out devices, and counts.
 */
#ifndef AIQ_DEVICES_H
#define AIQ_DEVICES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/aiq_kernels.h"

#define DEVICES_MAX 16 /* with the CPU */

typedef struct devices devices;

/* One of them; lives as long as the list. */
typedef struct {
    const aiq_kernels *kern;
    uint32_t index;
    char name[32]; /* "cuda:0", "cpu" */
    uint32_t n;    /* which of the list: a bit in a set of devices that were tried */
} device;

typedef enum {
    DEVICES_LACKING, /* what the list names is not to be had: name is of the list */
    DEVICES_FOUND,   /* one more device; why is its title */
    DEVICES_TAKEN,   /* a model goes there */
    DEVICES_LEFT,    /* it left */
    DEVICES_FAILED   /* a model could not stay, or be loaded, there */
} devices_event;

/* Who has a device, or is to have it: for whoever reads what is told. */
typedef struct {
    const char *model; /* its name; NULL: it has none */
    uint32_t replica;  /* of it, from 1 */
} devices_user;

/* Told on the thread on which it happens; must not call back. user: of those that are about a
 * model, and NULL where a device failed that none has. */
typedef void (*devices_cb)(void *arg, devices_event event, const char *name, const char *why,
                           const devices_user *user);

/* Whether the list is well formed: names of letters and digits, numbers below DEVICES_MAX. */
bool devices_valid(const char *list);

/* Opens what a valid list names. folder: where the libraries lie; NULL: beside the program, or
 * in ../lib/aiq from there. Blocks (loads libraries). Aborts without memory. cb may be NULL. */
devices *devices_open(const char *list, const char *folder, devices_cb cb, void *arg);

/* When nobody has a device any more. The libraries stay loaded: what they have started in the
 * process, a driver's threads, does not end with them. */
void devices_close(devices *d);

/*
 * The best device for a model of so many bytes of those not in *tried, which it joins: where
 * they fit, of those where the fewest models are, of those the one with the most memory. NULL:
 * none is left. The CPU comes last, and once; not at all without or_cpu. Any thread, also with
 * the same *tried: to whoever shares it no device is given twice. To be given back. d may be
 * NULL, here and below: the CPU alone.
 */
const device *devices_take(devices *d, const devices_user *user, uint64_t bytes, bool or_cpu,
                           uint32_t *tried);
void devices_give(devices *d, const device *dev, const devices_user *user);

/* It did not work out there: to be said before devices_give. Any thread. */
void devices_fail(devices *d, const device *dev, const devices_user *user, const char *why);

/* It does not answer, which is a failure, too: nobody is given it any more, and whoever has it
 * is to leave. user: who has found out, NULL: a look at it. Any thread. */
#define DEVICES_SILENT "the device does not answer"
void devices_lose(devices *d, const device *dev, const devices_user *user);
bool devices_is_lost(const devices *d, const device *dev);

/* Whether a thread may still hang in a driver. */
bool devices_hang(const devices *d);

/* How many there are, and which; the CPU is the last. */
uint32_t devices_count(const devices *d);
const device *devices_at(const devices *d, uint32_t i);

#endif

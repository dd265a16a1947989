/*
 * The devices of the engine's local models: opened as --device says, told in the log and by
 * metrics. Where there are others than the CPU, what NVIDIA's driver tells of its own, every
 * two seconds, is among these.
 */

#ifndef AIQ_LOCAL_DEVICES_H
#define AIQ_LOCAL_DEVICES_H

#include "engine.h"
#include "infer/devices.h"

typedef struct local_devices local_devices;

/* Main thread, before the loops run. Blocks: it loads libraries. */
local_devices *local_devices_new(aiq_engine *engine);

/* When no model is left. Whether a thread may still hang in a driver. */
bool local_devices_free(local_devices *d);

devices *local_devices_all(const local_devices *d);

#endif

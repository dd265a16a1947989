/*
 * What keys have used of their token limits outlives the engine: it is written to a folder
 * beside the socket, and the next engine there counts on with it.
 *
 *     ID.lock    locked by the engine with this id as long as it lives
 *     ID         what its windows held a second ago at most, of a running engine; who gets the
 *                lock of another's has found a killed engine's
 *     ID-N.left  what an engine that leaves has handed over, and counts no more itself; at the
 *                end once more, what was settled since
 *
 * Whoever removes a file counts what it had read in it, so nothing counts twice. Files are
 * lines of text, "ZONE KEY WINDOW_MS TIME:TOKENS …", with the time in milliseconds at which a
 * step of the window began, for the clock that windows go by begins with the machine. They
 * survive the process; with the power goes a second or more.
 *
 * A thread of its own does this: no loop waits for a disk.
 */

#ifndef AIQ_GATEWAY_TOKEN_SAVE_H
#define AIQ_GATEWAY_TOKEN_SAVE_H

#include "engine.h"
#include "services/gateway/token_limits.h"

typedef struct token_save token_save;

/* Reads what earlier engines have left, and begins. Never NULL: where the folder cannot be
 * used, a line of the log says so, and nothing is saved. Main thread, before the loops. */
token_save *token_save_start(aiq_engine *engine, token_limits *limits);

/* Leaves what there is to the next engine. Main thread, after the loops. NULL is fine. */
void token_save_stop(token_save *s);

#endif

/*
 * The pieces of a handshake: messages with a descriptor, and the two maps. No
 * state, no loop; a function that fails says why in a static sentence part.
 */

#ifndef AIQ_LINK_HANDSHAKE_H
#define AIQ_LINK_HANDSHAKE_H

#include <stdbool.h>
#include "aiq_link.h"

/* Reads the first message of a connection, and the descriptor that came with it
 * (-1: none). NULL, or why it is no hello: then no descriptor is left open. A
 * hello of another ABI is one: see hello->abi. */
const char *handshake_read(int fd, aiq_hello *hello, int *memfd);

/* Maps the worker's memfd for reading, after making sure that it cannot shrink
 * under us. The descriptor stays the caller's. NULL and *why. */
void *handshake_map_peer(int memfd, const char **why);

/* Makes and maps our memfd: writable for us alone, for we mapped it before it
 * was sealed. NULL where the system has no memory; else *memfd is the caller's. */
void *handshake_map_own(int *memfd);

/* Sends the answer. memfd -1: none. text is cut at the field's length. */
bool handshake_answer(int fd, uint64_t engine, aiq_welcome_status status, const char *text,
                      int memfd);

#endif

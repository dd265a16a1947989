/*
 * The engine's door: the listening socket, handshakes, the spreading of links
 * over loops, takeover and leaving. All of it on the main thread, with the main
 * loop, so that a slow or hostile handshake never holds a request up.
 *
 * A new engine takes over without a gap: it connects to the old one, puts its
 * own socket at the path (rename), and only then asks the old one to leave; so
 * a worker that is told to connect anew always finds somebody. An engine that
 * leaves tells its workers, serves the jobs that it has, and is done when the
 * last link is closed, or after options.drain_s, when the rest is cut with an
 * error. It never removes a socket that is not its own.
 */

#ifndef AIQ_LINK_SERVER_H
#define AIQ_LINK_SERVER_H

#include "engine.h"

typedef struct link_server link_server;

/* Prepares the loops' ends. Before the loops run. */
link_server *link_server_new(aiq_engine *engine, aiq_loop *main);

/* Listens, and takes over from a running engine. The loops run already. left:
 * called once, on the main loop, when leaving is over and every link is closed. */
bool link_server_start(link_server *s, loop_fn left, void *arg, aiq_err *err);

/* Begins to leave; called again, leaves at once. */
void link_server_leave(link_server *s);

/* After the loops have run, and before loop_free() of the main loop. */
void link_server_stop(link_server *s);
/* After loop_free() of every loop. */
void link_server_free(link_server *s);

#endif

/*
 * A request of an operator: over the admin socket, in the link's own frames. One link
 * a request; everything blocks, with a deadline.
 */

#ifndef CLI_OPERATOR_H
#define CLI_OPERATOR_H

#include "aiq_frame.h"
#include "cli/cli.h"
#include "core/json.h"

#define OPERATOR_SOCKET "/run/aiq/engine.sock.admin"

/* Sends the request (args may be NULL, body empty) and reads the reply, a JSON object,
 * whose text lies in the pool. False after a line on standard error that begins with
 * the command's name. */
bool operator_request(const char *command, const char *socket, aiq_method method,
                      const char *uri, const char *args, aiq_str body, aiq_pool *pool,
                      json_value *reply);

#endif

/*
 * The models that run in the engine itself, one instance a file, shared by all
 * loops and by every policy that names the file. They are loaded and closed by
 * one thread of their own, for both block.
 *
 * A model is loaded when a policy first names it, and closed a minute after the
 * last such policy is gone and no request uses it. One that could not be loaded is tried
 * again when the next policy names it, and when a request wants it five seconds or more
 * after the last try. /health knows each: down while it loads, degraded where it could not
 * be, until it is. With --models-idle a model is closed, too, that no request has used for
 * so long; the next request has it loaded again.
 */

#ifndef AIQ_LOCAL_MODELS_H
#define AIQ_LOCAL_MODELS_H

#include "core/policy.h"
#include "engine.h"
#include "infer/embedder.h"
#include "infer/infer.h"

/* What stands for a path where there is no file: infer/lexical.h. */
#define LOCAL_MODEL_LEXICAL "builtin:lexical"

typedef struct local_models local_models;
typedef struct local_model local_model;

/* Main thread, before the loops run. NULL and *err: no thread. */
local_models *local_models_new(aiq_engine *engine, aiq_err *err);

/* Ends what still runs and closes every model. Main thread, after the loops
 * have run and before they are freed. */
void local_models_free(local_models *m);

/* A policy comes into use, or goes. Any thread; neither blocks. */
void local_models_add(local_models *m, const aiq_policy *policy);
void local_models_remove(local_models *m, const aiq_policy *policy);

/* A reference to the model that the provider has under this name, and the model.
 * NULL and *err (503) where it is not there, or not yet: then with a time to ask
 * again; 400 where it is not for chats, but for vectors. Any thread. */
local_model *local_models_use(local_models *m, const policy_provider *provider,
                              const char *name, infer **out, aiq_err *err);

/* The same of one for vectors. */
local_model *local_models_use_embedder(local_models *m, const policy_provider *provider,
                                       const char *name, embedder **out, aiq_err *err);
void local_models_done(local_models *m, local_model *model);

#endif

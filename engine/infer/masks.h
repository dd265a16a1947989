/*
 * Answers that are held to a language: which tokens may come next, off the model's thread.
 *
 * The first mask of a place costs milliseconds (a vocabulary is walked), the next nothing. So a
 * model keeps its languages, by the text that they were made of, and all requests for the same
 * share one with its masks; and a thread makes the mask of an answer's next place while the
 * model computes: the first while it reads the prompt. Whoever needs a mask that is not there
 * makes it himself: that takes less than to wait for a thread that may have no core.
 *
 * Invariants:
 *  - A language's matcher is used under its lock only. Masks are made ahead in a twin, without
 *    the lock, so that nobody waits for that.
 *  - Places change when tables are trimmed: those of walks are kept, masks of before are void.
 *  - Memory is bounded: MASKS_IDLE languages that nobody uses, each trimmed as matcher_is_large
 *    says or at MASKS_KEPT masks.
 */
#ifndef INFER_MASKS_H
#define INFER_MASKS_H

#include "core/pool.h"
#include "infer/grammar.h"
#include "infer/tokenizer.h"

#define MASKS_IDLE 8
#define MASKS_KEPT 512
#define MASKS_KEY  ((size_t)256 * 1024) /* languages of longer texts are not kept */

typedef struct masks masks;                 /* of a model; any thread */
typedef struct mask_language mask_language; /* counts its references; any thread */
typedef struct mask_walk mask_walk;         /* an answer's way; one thread at a time */

/* Points into t. NULL: there is no thread. */
masks *masks_new(const tokenizer *t);
/* No walk may be left; languages may. */
void masks_free(masks *s);

/* A reference to the language that was made of this text; NULL: none is known. */
mask_language *masks_find(masks *s, aiq_str key);

/* The same, made of a grammar, which is taken and has passed its check. */
mask_language *masks_add(masks *s, aiq_str key, grammar *g);

mask_language *mask_language_ref(mask_language *l);
void mask_language_drop(mask_language *l);

/* At the beginning. Keeps a reference. */
mask_walk *mask_walk_new(masks *s, mask_language *l);
void mask_walk_free(mask_walk *w);

/* Past a text. False: the language has none that begins so, and the walk is over. */
bool mask_walk_text(mask_walk *w, const char *text, size_t len);

/* A bit for each token that may come; [masks_words]. */
void mask_walk_mask(mask_walk *w, uint64_t *out);
size_t masks_words(const masks *s);

/* Past a token that the mask has: the next mask is begun. */
void mask_walk_token(mask_walk *w, int32_t id);

/* Where the language leaves one text only, such as the rest of a name: most tokens that write
 * it to out, the longest there are. Returns how many. */
uint32_t mask_walk_only(mask_walk *w, int32_t *out, uint32_t most);

/* Of n tokens that are guessed to come, how many may, one behind the other. The walk stays
 * where it is; the masks behind them are begun. */
uint32_t mask_walk_follow(mask_walk *w, const int32_t *ids, uint32_t n);

/* Is the next mask there? Who only guesses gives up rather than make it. */
bool mask_walk_is_ready(mask_walk *w);

/* The language's string has ended: nothing may come. */
bool mask_walk_finished(mask_walk *w);

#endif

/*
 * Text to token ids and back, by the vocabulary inside a GGUF file. Three families: byte-level
 * BPE as GPT-2 has it (tokenizer.ggml.model "gpt2") with the ways to cut words of split.h,
 * SentencePiece's scored merges with byte fallback ("llama": Llama 2, Mistral, Gemma, Phi-3),
 * and WordPiece ("bert").
 *
 * Any bytes can be tokenized, valid UTF-8 or not. A tokenizer is immutable: any thread. It
 * points into its gguf, which must outlive it.
 */
#ifndef INFER_TOKENIZER_H
#define INFER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infer/gguf.h"

#define TOKENIZER_NONE (-1)

typedef struct tokenizer tokenizer;

/* A growing list; all zero is empty; free v. */
typedef struct {
    int32_t *v;
    size_t n;
    size_t cap;
    size_t limit; /* more are not wanted; 0: no limit */
} tokenizer_ids;

/* NULL, and one line in err, if the vocabulary is broken or of another family. */
tokenizer *tokenizer_new(const gguf *g, char *err, size_t errlen);
void tokenizer_free(tokenizer *t);

uint32_t tokenizer_n_vocab(const tokenizer *t);

/* The longest piece of text one token can stand for, in bytes. */
size_t tokenizer_max_piece(const tokenizer *t);

/*
 * Appends text's ids to out. With special, control tokens written in the text (<|im_end|>)
 * become their ids; without, they are text like any other, so what a user writes can never
 * end a turn. False if memory ends, the text has 1 GiB or more, or out reached its limit:
 * then the rest of the text is not looked at.
 */
bool tokenizer_encode(const tokenizer *t, const char *text, size_t len, bool special,
                      tokenizer_ids *out);

/*
 * The same for text of mixed origin: control tokens count where no byte of them is marked.
 * marks[i] is 1 where text[i] comes from somebody who may not write control tokens, else 0.
 */
bool tokenizer_encode_marked(const tokenizer *t, const char *text, const char *marks,
                             size_t len, tokenizer_ids *out);

/* False if memory ends or the list is at its limit. */
bool tokenizer_ids_push(tokenizer_ids *ids, int32_t id);

/* The bytes that id stands for, not terminated; parts of a character are possible. Control
 * tokens stand for nothing: *len is 0. id must be below n_vocab. */
const char *tokenizer_piece(const tokenizer *t, int32_t id, size_t *len);

/* What id is called in the vocabulary; of a control token the text that is written for it. */
const char *tokenizer_name(const tokenizer *t, int32_t id, size_t *len);

/* The id of exactly this text in the vocabulary, or TOKENIZER_NONE. */
int32_t tokenizer_find(const tokenizer *t, const char *text, size_t len);

/* What the model wants before a prompt, or TOKENIZER_NONE. */
int32_t tokenizer_bos(const tokenizer *t);

/* What the model wants behind a whole text, or TOKENIZER_NONE: encoders have one. */
int32_t tokenizer_eos(const tokenizer *t);

/* Whether id ends a generation: end of text, of turn, of message. */
bool tokenizer_is_end(const tokenizer *t, int32_t id);

#endif

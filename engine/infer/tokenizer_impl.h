/* Inside the tokenizers: the vocabulary, and what each family adds to it. */
#ifndef INFER_TOKENIZER_IMPL_H
#define INFER_TOKENIZER_IMPL_H

#include "infer/split.h"
#include "infer/tokenizer.h"

/* tokenizer.ggml.token_type */
enum {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6
};

#define MAX_END_TOKENS 8

/* Two neighbours that become one; the lowest rank goes first. */
typedef struct {
    int32_t left; /* TOKENIZER_NONE: an empty slot */
    int32_t right;
    int32_t result;
    uint32_t rank;
} merge;

typedef enum { FAMILY_BPE, FAMILY_SPM, FAMILY_WPM } tokenizer_family;

struct tokenizer {
    tokenizer_family family;
    uint32_t n;
    gguf_str *text; /* [n] as in the file */
    uint8_t *type;  /* [n] */
    uint64_t seed;  /* of the hashes: a file cannot aim at collisions it cannot predict */

    uint32_t *slots; /* [slot_mask + 1] id + 1 by hash of text, 0: empty */
    uint32_t slot_mask;
    size_t max_text; /* longest text, bytes */

    char *pieces;        /* what tokens stand for, one after another */
    uint32_t *piece_end; /* [n] */
    size_t max_piece;

    int32_t *specials; /* control, user-defined and unknown tokens by text */
    size_t n_specials;
    int32_t byte_id[256]; /* the token of a single byte, or TOKENIZER_NONE */

    merge *merges; /* BPE: [merge_mask + 1] by hash of the pair */
    uint32_t merge_mask;
    split_word word;
    bool whole_words; /* BPE: a word that is a token is not merged but taken */
    float *scores;    /* SPM: [n] */
    bool space_prefix;
    bool strip_after; /* SPM: white space behind special tokens is theirs */
    int32_t unknown;

    int32_t bos;
    bool add_bos;
    int32_t eos; /* behind a text, where add_eos */
    bool add_eos;
    int32_t ends[MAX_END_TOKENS];
    uint32_t n_ends;
};

uint64_t tokenizer_mix(uint64_t x);

/* A merge that could be done next. Which is best depends on the family; on a tie the
 * leftmost. The pair's total length tells whether it is still as it was when found. */
typedef struct {
    double key; /* greater goes first */
    uint32_t left;
    uint32_t right;
    uint32_t len;
    int32_t result;
} candidate;

/* A piece of the text between its neighbours; len 0: swallowed by the one before. */
typedef struct {
    uint32_t start;
    uint32_t len;
    int32_t prev; /* TOKENIZER_NONE at the ends */
    int32_t next;
    int32_t id; /* BPE only */
} symbol;

/* Scratch of one encode. */
typedef struct {
    const tokenizer *t;
    const char *text;
    symbol *symbols;
    size_t symbols_cap;
    candidate *heap;
    size_t heap_n;
    size_t heap_cap;
} merger;

/* Finds what symbols left and right could become: fills key and result, or false. */
typedef bool (*merger_find)(const merger *m, const symbol *left, const symbol *right,
                            candidate *out);

/* Makes room for n symbols. */
bool merger_reserve(merger *m, size_t n);

/* Links the first n symbols and merges them, best first, until nothing more merges. Walk
 * what is left from 0 along next. */
bool merger_run(merger *m, size_t n, merger_find find);

void merger_free(merger *m);

/* Byte-level BPE (bpe.c). */
bool bpe_load(tokenizer *t, const gguf *g, char *err, size_t errlen);
bool bpe_begins_texts(const gguf *g); /* with a token, where the file does not say */
size_t bpe_decode(const gguf_str *text, char *out); /* bytes of a token's text; out or NULL */
bool bpe_encode(const tokenizer *t, const char *text, size_t len, tokenizer_ids *out);

/* SentencePiece (spm.c). */
bool spm_load(tokenizer *t, const gguf *g, char *err, size_t errlen);
size_t spm_decode(const tokenizer *t, uint32_t id, char *out);
bool spm_encode(const tokenizer *t, const char *text, size_t len, tokenizer_ids *out);

/* WordPiece (wpm.c); its pieces decode as SentencePiece's do. */
bool wpm_load(tokenizer *t, const gguf *g, char *err, size_t errlen);
bool wpm_encode(const tokenizer *t, const char *text, size_t len, tokenizer_ids *out);

#endif

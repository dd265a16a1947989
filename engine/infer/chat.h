/*
 * Chats as prompts. The one template so far is ChatML:
 *
 *     <|im_start|>user
 *     Hello<|im_end|>
 *     <|im_start|>assistant
 *
 * We do not run a file's Jinja; we recognise it. A template that says anything else than
 * ChatML is refused rather than guessed at. What a message says is tokenized as plain text, so
 * it cannot end its turn or begin another.
 */
#ifndef INFER_CHAT_H
#define INFER_CHAT_H

#include "infer/infer.h"
#include "infer/tokenizer.h"

typedef struct {
    bool usable;
    int32_t start; /* <|im_start|> */
    int32_t end;   /* <|im_end|> */
} chat_template;

chat_template chat_template_of(const gguf *g, const tokenizer *t);

/* Appends the prompt of a chat, up to where the assistant's answer begins. False if memory
 * ends. The template must be usable. */
bool chat_render(const chat_template *c, const tokenizer *t, const infer_message *messages,
                 size_t n, tokenizer_ids *out);

#endif

#include "cache/envelope.h"
#include <openssl/evp.h>
#include <string.h>

/* What it begins with. Another layout has another number, and passes for none. */
typedef struct {
    char magic[4]; /* "aiq", 1 */
    uint32_t reserved;
    int64_t stored_ms;
    uint8_t digest[32];
} head;

static void digest(const head *h, const uint8_t key[LRU_KEY], const void *data, size_t len,
                   uint8_t out[32])
{
    EVP_MD_CTX *hash = EVP_MD_CTX_new();

    EVP_DigestInit_ex(hash, EVP_sha256(), NULL);
    EVP_DigestUpdate(hash, h, offsetof(head, digest));
    EVP_DigestUpdate(hash, key, LRU_KEY);
    EVP_DigestUpdate(hash, data, len);
    EVP_DigestFinal_ex(hash, out, NULL);
    EVP_MD_CTX_free(hash);
}

void envelope_write(aiq_buf *out, const uint8_t key[LRU_KEY], int64_t stored_ms,
                    const void *data, size_t len)
{
    head h = {.magic = {'a', 'i', 'q', 1}, .stored_ms = stored_ms};

    digest(&h, key, data, len, h.digest);
    aiq_buf_add(out, &h, sizeof(h));
    aiq_buf_add(out, data, len);
}

bool envelope_read(aiq_str value, const uint8_t key[LRU_KEY], int64_t *stored_ms, aiq_str *data)
{
    uint8_t expected[32];
    head h;

    if (value.len < sizeof(h)) {
        return false;
    }
    memcpy(&h, value.data, sizeof(h));
    *data = (aiq_str){value.data + sizeof(h), value.len - sizeof(h)};
    if (memcmp(h.magic, (const char[]){'a', 'i', 'q', 1}, sizeof(h.magic)) != 0) {
        return false;
    }
    digest(&h, key, data->data, data->len, expected);
    *stored_ms = h.stored_ms;
    return memcmp(h.digest, expected, sizeof(expected)) == 0;
}

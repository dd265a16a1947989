/*
 * Making connections with libcurl's multi interface. Its sockets and its timer
 * are the loop's while a connection is being made; afterwards libcurl has no
 * part in when something is read or written.
 */

#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "core/log.h"
#include "providers/http_conn.h"

/* A socket that libcurl waits for. */
typedef struct {
    uv_poll_t poll;
    http_client *client;
    curl_socket_t fd;
} watched;

static void collect(http_client *client)
{
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(client->multi, &left)) != NULL) {
        http_conn *c = NULL;
        CURLcode code = message->data.result;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&c);
        c->connecting = false;
        curl_socket_t fd = -1;
        if (code == CURLE_OK) {
            code = curl_easy_getinfo(c->easy, CURLINFO_ACTIVESOCKET, &fd);
        }
        if (code != CURLE_OK) {
            http_unconnected(c, code);
            continue;
        }
        c->fd = fd;
        c->http2 |= c->origin->via.http2 && !c->origin->https;
        if (!c->origin->tls) {
            c->stolen = true; /* libcurl's close leaves the descriptor to us */
            connect_drop(c);
        }
        /* The request that is sent now ties a TLS handle to its connection. Until then
         * libcurl takes the connection for an idle one and closes it when it is old. */
        http_connected(c);
    }
}

static void on_timer(aiq_loop *loop, void *arg)
{
    http_client *client = arg;
    int running;

    (void)loop;
    curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect(client);
}

static int set_timer(CURLM *multi, long ms, void *arg)
{
    http_client *client = arg;

    (void)multi;
    if (ms < 0) {
        loop_timer_stop(client->loop, &client->multi_timer);
    } else {
        loop_timer_start(client->loop, &client->multi_timer, (uint64_t)ms, on_timer, client);
    }
    return 0;
}

static void on_socket(uv_poll_t *poll, int status, int events)
{
    watched *w = poll->data;
    http_client *client = w->client;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0, running;

    flags |= events & UV_READABLE ? CURL_CSELECT_IN : 0;
    flags |= events & UV_WRITABLE ? CURL_CSELECT_OUT : 0;
    curl_multi_socket_action(client->multi, w->fd, flags, &running);
    collect(client);
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static int watch(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    http_client *client = arg;
    watched *w = socket_arg;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            curl_multi_assign(client->multi, fd, NULL);
            uv_close((uv_handle_t *)&w->poll, on_closed);
        }
        return 0;
    }
    if (w == NULL) {
        w = aiq_zalloc(sizeof(*w));
        *w = (watched){.client = client, .fd = fd};
        if (uv_poll_init(&client->loop->uv, &w->poll, fd) < 0) {
            free(w);
            return -1;
        }
        w->poll.data = w;
        curl_multi_assign(client->multi, fd, w);
    }
    uv_poll_start(&w->poll,
                  (what & CURL_POLL_IN ? UV_READABLE : 0) |
                      (what & CURL_POLL_OUT ? UV_WRITABLE : 0),
                  on_socket);
    return 0;
}

static int close_socket(void *arg, curl_socket_t fd)
{
    http_conn *c = arg;

    return c->stolen && c->fd == fd ? 0 : close(fd);
}

/* What the peer has agreed to; libcurl cannot be asked any more when it has connected. */
static void on_handshake(const SSL *ssl, int where, int result)
{
    http_conn *c = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    const uint8_t *name;
    unsigned len;

    (void)result;
    if (where & SSL_CB_HANDSHAKE_DONE) {
        SSL_get0_alpn_selected(ssl, &name, &len);
        c->http2 = len == 2 && memcmp(name, "h2", 2) == 0;
    }
}

/* Offers HTTP/2 ourselves: libcurl, if it did, would speak it as well. */
static CURLcode offer_http2(CURL *easy, void *ctx, void *arg)
{
    static const uint8_t names[] = "\x02h2\x08http/1.1";
    http_conn *c = arg;

    (void)easy;
    if (c->origin->tls_proxy && !c->proxied) {
        c->proxied = true;
        return CURLE_OK;
    }
    SSL_CTX_set_app_data((SSL_CTX *)ctx, c);
    SSL_CTX_set_info_callback(ctx, on_handshake);
    return SSL_CTX_set_alpn_protos(ctx, names, sizeof(names) - 1) == 0 ? CURLE_OK
                                                                       : CURLE_OUT_OF_MEMORY;
}

static bool set_options(http_conn *c, uint32_t timeout_ms)
{
    CURL *e = c->easy;
    const http_via *via = &c->origin->via;
    const char *ca = via->ca ? via->ca : getenv("SSL_CERT_FILE"); /* as with OpenSSL anywhere */
    CURLcode bad = CURLE_OK;

#define SET(option, value) bad |= curl_easy_setopt(e, option, value)
    SET(CURLOPT_URL, c->origin->connect);
    SET(CURLOPT_PRIVATE, c);
    SET(CURLOPT_CONNECT_ONLY, 1L);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)timeout_ms);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_PROXY, via->proxy ? via->proxy : ""); /* "": none of the environment's */
    SET(CURLOPT_HTTPPROXYTUNNEL, 1L);
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(CURLOPT_TCP_NODELAY, 1L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_DNS_CACHE_TIMEOUT, 60L);
    SET(CURLOPT_QUICK_EXIT, 1L); /* giving up does not wait for a name server */
    SET(CURLOPT_ERRORBUFFER, c->error);
    SET(CURLOPT_CLOSESOCKETFUNCTION, close_socket);
    SET(CURLOPT_CLOSESOCKETDATA, c);
    if (ca) {
        SET(CURLOPT_CAINFO, ca);
        SET(CURLOPT_PROXY_CAINFO, ca);
    }
    if (via->http2 && c->origin->https) {
        SET(CURLOPT_SSL_ENABLE_ALPN, 0L);
        SET(CURLOPT_SSL_CTX_FUNCTION, offer_http2);
        SET(CURLOPT_SSL_CTX_DATA, c);
    }
    if (via->certificate) {
        SET(CURLOPT_SSLCERT, via->certificate);
        SET(CURLOPT_SSLKEY, via->certificate_key);
    }
#undef SET
    return bad == CURLE_OK;
}

bool connect_start(http_conn *c, uint32_t timeout_ms)
{
    c->easy = curl_easy_init();
    if (c->easy == NULL) {
        return false;
    }
    c->connecting = true;
    if (!set_options(c, timeout_ms) ||
        curl_multi_add_handle(c->client->multi, c->easy) != CURLM_OK) {
        connect_drop(c);
        return false;
    }
    return true;
}

void connect_drop(http_conn *c)
{
    if (c->easy) {
        curl_multi_remove_handle(c->client->multi, c->easy);
        curl_easy_cleanup(c->easy);
        c->easy = NULL;
        c->connecting = false;
    }
}

void connect_init(http_client *client)
{
    client->multi = curl_multi_init();
    if (client->multi == NULL) {
        return; /* connect_start() fails: adding to no multi is an error of libcurl's */
    }
    curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, watch);
    curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client);
    curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, set_timer);
    curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client);
}

void connect_free(http_client *client)
{
    curl_multi_cleanup(client->multi);
    loop_timer_stop(client->loop, &client->multi_timer);
}

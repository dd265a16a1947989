#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "providers/http2.h"

/* Origins. */

static char *url_part(CURLU *url, CURLUPart part, unsigned flags)
{
    char *text = NULL;

    return curl_url_get(url, part, &text, flags) == CURLUE_OK ? text : NULL;
}

/* host, or host:port where the port is not the scheme's own */
static char *host_of(CURLU *url, bool tls)
{
    char *host = url_part(url, CURLUPART_HOST, 0);
    char *port = url_part(url, CURLUPART_PORT, CURLU_DEFAULT_PORT);
    char *out = NULL;

    if (host && port) {
        bool usual = strcmp(port, tls ? "443" : "80") == 0;
        if (asprintf(&out, "%s%s%s", host, usual ? "" : ":", usual ? "" : port) < 0) {
            out = NULL;
        }
    }
    curl_free(host);
    curl_free(port);
    return out;
}

static void origin_free(http_origin *o)
{
    free((char *)o->via.ca);
    free((char *)o->via.certificate);
    free((char *)o->via.certificate_key);
    free((char *)o->via.proxy);
    free(o->url);
    free(o->connect);
    free(o->host);
    free(o->path);
    free(o);
}

static bool origin_parse(http_origin *o, CURLU *url)
{
    char *scheme = url_part(url, CURLUPART_SCHEME, 0);
    char *path = url_part(url, CURLUPART_PATH, 0);
    bool ok = false;

    if (scheme && path && (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0)) {
        o->https = o->tls = strcmp(scheme, "https") == 0;
        o->path = strdup(strcmp(path, "/") == 0 ? "" : path);
        o->host = host_of(url, o->tls);
        ok = o->path && o->host && asprintf(&o->connect, "%s://%s/", scheme, o->host) > 0;
    }
    curl_free(scheme);
    curl_free(path);
    return ok;
}

static char *copy(const char *text)
{
    return text ? strcpy(aiq_alloc(strlen(text) + 1), text) : NULL;
}

static bool same(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_via(const http_via *a, const http_via *b)
{
    return same(a->ca, b->ca) && same(a->certificate, b->certificate) &&
           same(a->certificate_key, b->certificate_key) && same(a->proxy, b->proxy) &&
           a->http2 == b->http2;
}

static http_origin *origin_new(const char *text, const http_via *via)
{
    CURLU *url = curl_url();
    http_origin *o = aiq_zalloc(sizeof(*o));

    o->url = copy(text);
    o->room = HTTP2_ROOM;
    o->via = (http_via){copy(via->ca), copy(via->certificate), copy(via->certificate_key),
                        copy(via->proxy), via->http2};
    if (!url || curl_url_set(url, CURLUPART_URL, text, 0) != CURLUE_OK ||
        !origin_parse(o, url)) {
        origin_free(o);
        o = NULL;
    } else if (via->proxy && strncmp(via->proxy, "https:", 6) == 0) {
        o->tls_proxy = o->tls = true;
    }
    curl_url_cleanup(url);
    return o;
}

http_origin *origin_get(http_client *client, const char *url, const http_via *via)
{
    http_origin *o = client->origins;

    while (o && (strcmp(o->url, url) != 0 || !same_via(&o->via, via))) {
        o = o->next;
    }
    if (o == NULL) {
        o = origin_new(url, via);
        if (o == NULL) {
            return NULL;
        }
        o->next = client->origins;
        client->origins = o;
    }
    o->refs++;
    return o;
}

void origin_unref(http_client *client, http_origin *origin)
{
    http_origin **p = &client->origins;

    if (--origin->refs == 0) {
        while (*p != origin) {
            p = &(*p)->next;
        }
        *p = origin->next;
        origin_free(origin);
    }
}

/* Connections. */

http_conn *conn_new(http_client *client, http_origin *origin)
{
    http_conn *c = aiq_zalloc(sizeof(*c));

    c->client = client;
    c->origin = origin;
    c->fd = -1;
    TAILQ_INIT(&c->requests);
    origin->refs++;
    client->n_connections++;
    return c;
}

static void link_to(http_conn *c, http_conn **list)
{
    c->next = *list;
    c->prev = list;
    if (c->next) {
        c->next->prev = &c->next;
    }
    *list = c;
}

static void unlink_from(http_conn *c, uint32_t *n)
{
    if (c->prev) {
        *c->prev = c->next;
        if (c->next) {
            c->next->prev = c->prev;
        }
        c->prev = NULL;
        --*n;
    }
}

http_conn *conn_take_idle(http_origin *origin)
{
    http_conn *c = origin->idle;

    if (c) {
        unlink_from(c, &origin->n_idle);
    }
    return c;
}

void conn_share(http_conn *c)
{
    c->shared = true;
    link_to(c, &c->origin->shared);
    c->origin->n_shared++;
}

void conn_unshare(http_conn *c)
{
    c->shared = false;
    unlink_from(c, &c->origin->n_shared);
}

void conn_keep(http_conn *c)
{
    http_origin *o = c->origin;

    if (o->n_idle >= HTTP_IDLE_MAX) {
        conn_close(c);
        return;
    }
    c->used = true;
    c->idle_since_ns = loop_turn_ns(c->client->loop);
    link_to(c, &o->idle);
    o->n_idle++;
    conn_watch(c, UV_READABLE);
}

static void on_poll_closed(uv_handle_t *handle)
{
    free(handle);
}

void conn_close(http_conn *c)
{
    unlink_from(c, c->shared ? &c->origin->n_shared : &c->origin->n_idle);
    http2_close(c);
    if (c->poll) {
        uv_close((uv_handle_t *)c->poll, on_poll_closed);
    }
    connect_drop(c); /* closes a TLS connection's descriptor, too */
    if (c->stolen) {
        close(c->fd);
    }
    c->client->n_connections--;
    origin_unref(c->client, c->origin);
    free(c);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    http_conn *c = poll->data;

    if (status < 0) {
        c->failed = true; /* libuv has stopped the handle */
        c->events = 0;
        events = UV_READABLE;
    }
    http_ready(c, events);
}

/* Each change costs two system calls, so there is one only where a peer does
 * not take what we send, or we not what it sends. */
void conn_watch(http_conn *c, int events)
{
    if (c->poll == NULL) {
        c->poll = aiq_zalloc(sizeof(*c->poll));
        uv_poll_init(&c->client->loop->uv, c->poll, c->fd);
        c->poll->data = c;
    }
    if (c->events != events) {
        c->events = events;
        if (events) {
            uv_poll_start(c->poll, events, on_poll);
        } else {
            uv_poll_stop(c->poll);
        }
    }
}

static ssize_t curl_result(CURLcode code, size_t n)
{
    if (code == CURLE_OK) {
        return (ssize_t)n;
    }
    return code == CURLE_AGAIN ? -EAGAIN : -EIO;
}

ssize_t conn_send(http_conn *c, const void *data, size_t n)
{
    size_t sent = 0;

    if (c->easy) {
        CURLcode code = curl_easy_send(c->easy, data, n, &sent);
        return curl_result(code, sent);
    }
    ssize_t rc = send(c->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    return rc < 0 ? -errno : rc;
}

ssize_t conn_recv(http_conn *c, void *data, size_t n)
{
    size_t received = 0;

    if (c->easy) {
        CURLcode code = curl_easy_recv(c->easy, data, n, &received);
        return curl_result(code, received);
    }
    ssize_t rc = recv(c->fd, data, n, MSG_DONTWAIT);
    return rc < 0 ? -errno : rc;
}

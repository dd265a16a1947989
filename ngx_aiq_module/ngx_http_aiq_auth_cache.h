
/*
 * What was found out about credentials, in shared memory for all workers:
 * verified tokens, API keys.  An entry is found by the SHA-256 of what was
 * shown, never by the credential itself, and holds a few bytes whose meaning
 * is their owner's.  The namespace keeps the owners apart.
 *
 * Bounded by "aiq_auth_cache": the entry that was used least recently makes
 * room.  An entry may be gone at any time, so it can only ever save work.
 */

#ifndef _NGX_HTTP_AIQ_AUTH_CACHE_H_INCLUDED_
#define _NGX_HTTP_AIQ_AUTH_CACHE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


#define NGX_HTTP_AIQ_AUTH_DIGEST     32
#define NGX_HTTP_AIQ_AUTH_VALUE_MAX  16384


typedef enum {
    NGX_HTTP_AIQ_AUTH_JWT = 0,
    NGX_HTTP_AIQ_AUTH_KEY
} ngx_http_aiq_auth_ns_e;


/* the "aiq_auth_cache" directive */
char *ngx_http_aiq_auth_cache(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/*
 * The zone, for who needs it; to be called in postconfiguration, when the
 * directive was seen if it is there.
 */
ngx_shm_zone_t *ngx_http_aiq_auth_cache_zone(ngx_conf_t *cf);

/* NGX_OK: a copy of the value, from the pool; NGX_DECLINED: no such entry */
ngx_int_t ngx_http_aiq_auth_cache_lookup(ngx_shm_zone_t *zone,
    ngx_http_aiq_auth_ns_e ns, u_char *digest, ngx_pool_t *pool,
    ngx_str_t *value);

/*
 * Replaces an entry that is there.  It ends at "expires", in seconds of
 * ngx_time().  NGX_DECLINED: there is no room, or the value is too large.
 */
ngx_int_t ngx_http_aiq_auth_cache_insert(ngx_shm_zone_t *zone,
    ngx_http_aiq_auth_ns_e ns, u_char *digest, ngx_str_t *value,
    time_t expires);

void ngx_http_aiq_auth_cache_remove(ngx_shm_zone_t *zone,
    ngx_http_aiq_auth_ns_e ns, u_char *digest);


#endif /* _NGX_HTTP_AIQ_AUTH_CACHE_H_INCLUDED_ */

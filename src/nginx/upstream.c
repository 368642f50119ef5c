/* Access to the flags of nginx's upstream structures for upstream.rs: src/nginx/request/flags.rs says why. */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

unsigned ngx_http_wsgi_upstream_request_sent(const ngx_http_upstream_t *upstream)
{
    return upstream->request_sent;
}

void ngx_http_wsgi_upstream_set_request_sent(ngx_http_upstream_t *upstream, unsigned value)
{
    upstream->request_sent = value;
}

unsigned ngx_http_wsgi_upstream_cacheable(const ngx_http_upstream_t *upstream)
{
    return upstream->cacheable;
}

unsigned ngx_http_wsgi_upstream_store(const ngx_http_upstream_t *upstream)
{
    return upstream->store;
}

unsigned ngx_http_wsgi_peer_cached(const ngx_peer_connection_t *peer)
{
    return peer->cached;
}

void ngx_http_wsgi_peer_set_cached(ngx_peer_connection_t *peer, unsigned value)
{
    peer->cached = value;
}

/* Lets the request body be sent after the response header has been received, as for gRPC. */
void ngx_http_wsgi_upstream_set_preserve_output(ngx_http_upstream_conf_t *conf)
{
    conf->preserve_output = 1;
}

/* Returns whether nginx may put responses into a cache. */
unsigned ngx_http_wsgi_upstream_has_cache(const ngx_http_upstream_conf_t *conf)
{
#if (NGX_HTTP_CACHE)
    return conf->cache > 0;
#else
    (void) conf;
    return 0;
#endif
}

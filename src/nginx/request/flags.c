/* Access to the flags of nginx's request for flags.rs, which says why. */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#define READ(flag)                                                                                                     \
    unsigned ngx_http_wsgi_##flag(const ngx_http_request_t *request) { return request->flag; }

#define WRITE(flag)                                                                                                    \
    void ngx_http_wsgi_set_##flag(ngx_http_request_t *request, unsigned value) { request->flag = value; }

READ(buffered)
READ(header_only)
READ(header_sent)
READ(reading_body)
READ(request_body_no_buffering)
WRITE(allow_ranges)
WRITE(disable_not_modified)
WRITE(keepalive)
WRITE(limit_rate_set)
WRITE(lingering_close)
WRITE(reading_body)
WRITE(request_body_no_buffering)
WRITE(single_range)

/* Keeps the request for another call of ngx_http_finalize_request, as ngx_http_read_client_request_body does. */
void ngx_http_wsgi_hold(ngx_http_request_t *request) { request->main->count++; }

/* Discards further data on the stream of an HTTP/2 request, as ngx_http_discard_request_body does. */
void ngx_http_wsgi_skip_stream_data(ngx_http_request_t *request)
{
#if (NGX_HTTP_V2)
    if (request->stream) {
        request->stream->skip_data = 1;
    }
#endif
}

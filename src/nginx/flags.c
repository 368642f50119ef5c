/* The flags of nginx's request for flags.rs, which says why. */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#define READ(flag)                                                                                                     \
    unsigned ngx_http_wsgi_##flag(const ngx_http_request_t *request) { return request->flag; }

#define WRITE(flag)                                                                                                    \
    void ngx_http_wsgi_set_##flag(ngx_http_request_t *request, unsigned value) { request->flag = value; }

READ(buffered)
READ(count)
READ(header_only)
READ(header_sent)
READ(reading_body)
READ(request_body_no_buffering)
WRITE(allow_ranges)
WRITE(count)
WRITE(disable_not_modified)
WRITE(keepalive)
WRITE(limit_rate_set)
WRITE(request_body_no_buffering)
WRITE(single_range)

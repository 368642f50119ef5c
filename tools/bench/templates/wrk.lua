{% if upload %}
wrk.method = "POST"
wrk.body = string.rep("u", {{ upload }})
{% endif %}
{% for name, value in headers.items() %}
wrk.headers["{{ name }}"] = '{{ value }}'
{% endfor %}

done = function(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    local form = '{"requests": %d, "bytes": %d, "seconds": %.6f, "p50": %.6f, "p99": %.6f, "failed": %d}'
    print(string.format(form, summary.requests, summary.bytes, summary.duration / 1e6,
        latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, failed))
end

//! The page of `wsgi_debug`, sent in place of nginx's own error page 500.

use super::headers::ResponseHeaders;

/// Returns headers and body of a page with `traceback`, as HTML or as plain text.
pub fn page(traceback: &str, html: bool) -> (ResponseHeaders, Vec<u8>) {
    let (media_type, body) = if html {
        ("text/html; charset=utf-8", html_page(traceback))
    } else {
        ("text/plain; charset=utf-8", traceback.to_owned())
    };
    let body = body.into_bytes();
    let mut headers = ResponseHeaders::with_status(500);
    headers.push(b"Content-Type", media_type.as_bytes());
    headers.push(b"Cache-Control", b"no-store");
    headers.content_length = Some(body.len() as u64);
    headers.is_report = true;
    (headers, body)
}

fn html_page(traceback: &str) -> String {
    let last = traceback.trim_end().lines().last().unwrap_or_default();
    let (title, text) = (escape(last), escape(traceback));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>\n\
         body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; \
         color: #222 }}\n\
         h1 {{ font-size: 1.3rem; color: #b00020; overflow-wrap: anywhere }}\n\
         pre {{ background: #f6f6f6; border-left: 4px solid #b00020; padding: 1rem; overflow: auto; \
         font-size: .85rem }}\n\
         p {{ color: #666; font-size: .85rem }}\n\
         </style></head>\n<body><h1>{title}</h1>\n<pre>{text}</pre>\n\
         <p>Shown because of <code>wsgi_debug on</code>. The same text is in nginx's error log.</p>\n\
         </body></html>\n"
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_traceback_is_escaped() {
        let (headers, body) = page("Traceback\nValueError: <script>", true);
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains("<title>ValueError: &lt;script&gt;</title>") && !body.contains("<script>"));
        assert_eq!(headers.content_length, Some(body.len() as u64));
        assert_eq!(page("text", false).1, b"text");
    }
}

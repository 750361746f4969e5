//! Pages of metrics, compressed for who takes that, as Prometheus does: the names on a page of hundreds of containers
//! repeat on every line.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::reply::{self, Reply};

/// Smaller pages are done sooner than another thread is woken.
const SMALL: usize = 32 << 10;

pub async fn page(headers: &HeaderMap, text: String) -> Reply {
    if !takes_gzip(headers) {
        return reply::typed(StatusCode::OK, reply::EXPOSITION, text);
    }
    let packed = match text.len() {
        ..SMALL => gzip(text.as_bytes()),
        _ => tokio::task::spawn_blocking(move || gzip(text.as_bytes())).await.map_err(std::io::Error::other).flatten(),
    };
    match packed {
        Ok(packed) => {
            let mut reply = reply::typed(StatusCode::OK, reply::EXPOSITION, packed);
            reply.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            reply
        }
        Err(error) => {
            reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("the page could not be packed: {error}\n"))
        }
    }
}

fn gzip(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    packed.write_all(text)?;
    packed.finish()
}

/// Weights are not compared: who names gzip takes it, unless with a weight of nothing.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|list| list.split(',')).any(|offer| {
        let (name, weight) = offer.split_once(';').unwrap_or((offer, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use http_body_util::BodyExt;

    use super::*;

    fn asks(encoding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(encoding))])
    }

    #[test]
    fn who_does_not_ask_for_gzip_gets_none() {
        for (asked, takes) in [
            ("gzip", true),
            ("deflate, gzip;q=1.0, *;q=0.5", true),
            ("GZIP", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("", false),
        ] {
            assert_eq!(takes_gzip(&asks(asked)), takes, "{asked}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn a_page_is_the_same_packed_or_not() {
        for text in ["up 1\n".to_owned(), "container_cpu_usage_seconds_total{id=\"/\"} 1\n".repeat(2000)] {
            let plain = page(&HeaderMap::new(), text.clone()).await;
            assert!(plain.headers().get(header::CONTENT_ENCODING).is_none());
            let packed = page(&asks("gzip"), text.clone()).await;
            assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
            assert_eq!(packed.headers()[header::CONTENT_TYPE], reply::EXPOSITION);
            let bytes = packed.into_body().collect().await.unwrap().to_bytes();
            assert!(text.len() < 100 || bytes.len() < text.len() / 10);
            let mut unpacked = String::new();
            GzDecoder::new(&bytes[..]).read_to_string(&mut unpacked).unwrap();
            assert_eq!(unpacked, text);
        }
    }
}

//! Who may ask: requests of pages of other origins are refused, and without a token those of other machines.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use crate::error::Refused;

/// What a page may load, and where it may be shown: its own, nothing else.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'";
/// A report carries its scripts within, and may do nothing else: it has no origin, so that it cannot ask the server.
const REPORT_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; form-action 'none'; base-uri 'none'; sandbox allow-scripts allow-downloads";

/// The longest body that is read of any request, in bytes; an announced one that is longer is refused at once.
pub(crate) const LONGEST: u64 = 16 << 20;

/// Where the server listens, and the token that it asks for.
pub(crate) struct Guard {
    pub(crate) address: SocketAddr,
    pub(crate) token: Option<String>,
}

pub(crate) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if let Err(refused) = guard.check(request.headers()) {
        return refused.into_response();
    }
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > LONGEST) {
        let said = format!("no request here has more than {} MB", LONGEST >> 20);
        return Refused::new(StatusCode::PAYLOAD_TOO_LARGE, said).into_response();
    }
    let path = request.uri().path().to_owned();
    if let Some(token) = &guard.token {
        let pairs = request.uri().query().unwrap_or_default().split('&');
        let (given, rest): (Vec<&str>, Vec<&str>) = pairs.partition(|pair| pair.starts_with("token="));
        // A link with the token is followed once; the browser keeps it from then on, out of sight.
        if given.iter().any(|given| same(&given["token=".len()..], token)) {
            let rest = rest.join("&");
            let to = if rest.is_empty() { path } else { format!("{path}?{rest}") };
            let cookie = format!("directrix={token}; HttpOnly; SameSite=Strict; Path=/");
            let mut response = Redirect::to(&to).into_response();
            if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                response.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            return response;
        }
        if !has_token(request.headers(), token) {
            let said = "this server asks for its token; open the link that `directrix serve` printed, or send `Authorization: Bearer TOKEN`";
            return Refused::new(StatusCode::UNAUTHORIZED, said).into_response();
        }
    }
    let mut response = next.run(request).await;
    let is_report = path.starts_with("/studies/") && path.ends_with("/report.html");
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, if is_report { REPORT_POLICY } else { POLICY }),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Guard {
    /// That a request names this server, and comes from no other page: a name that leads to this machine is no way in.
    fn check(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if self.token.is_none() && !self.is_own(host) {
            let said = format!("this server is called {}, not `{host}`", self.address);
            return Err(Refused::new(StatusCode::MISDIRECTED_REQUEST, said));
        }
        let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
        match origin {
            Some(origin) if origin != format!("http://{host}") && origin != format!("https://{host}") => {
                Err(Refused::new(StatusCode::FORBIDDEN, format!("pages of `{origin}` may not ask this server")))
            }
            _ => Ok(()),
        }
    }

    fn is_own(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
            _ => (host, Some(80)),
        };
        let names = ["localhost", "127.0.0.1", "[::1]"];
        port == Some(self.address.port()) && (names.contains(&name) || name == self.address.ip().to_string())
    }
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let bearer = text(header::AUTHORIZATION).strip_prefix("Bearer ").is_some_and(|given| same(given, token));
    let cookie = text(header::COOKIE).split(';').filter_map(|pair| pair.trim().strip_prefix("directrix="));
    bearer || cookie.into_iter().any(|given| same(given, token))
}

/// Whether two tokens are the same, in a time that does not tell where they differ.
fn same(given: &str, token: &str) -> bool {
    let differ = given.bytes().zip(token.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
    given.len() == token.len() && differ == 0
}

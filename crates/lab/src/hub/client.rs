//! Questions to the hub, and what its answers mean.

use std::fs;
use std::io::Read;
use std::time::Duration;

use directrix_corpus::one_line;
use serde_json::Value;
use ureq::http::{HeaderMap, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::Hub;
use super::cache::MOST_LISTED;
use super::error::HubError;
use super::name::HubName;

const CONNECT: Duration = Duration::from_secs(15);
/// No answer, or no further bytes, for this long is a lost connection.
const SILENCE: Duration = Duration::from_secs(30);
const MOST_REDIRECTS: usize = 8;

/// Asks a hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// What a question is about, for messages.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) wanted: &'a HubName,
    pub(super) file: Option<&'a str>,
}

/// What the hub answered: the headers of the first host, which is the hub, and of the last, which has the bytes.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) hub: HeaderMap,
    pub(super) last: HeaderMap,
    pub(super) body: Body,
}

impl Client {
    pub(super) fn new(hub: &Hub) -> Result<Client, HubError> {
        let token = hub.token.clone();
        if token.as_deref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            let problem = "it holds a character that is in no token; copy it anew from the hub's settings".into();
            return Err(HubError::Setting { setting: "HF_TOKEN", problem });
        }
        let endpoint = hub.endpoint.clone();
        if !endpoint.parse::<Uri>().is_ok_and(|uri| origin(&uri).is_some()) {
            let problem = format!("`{endpoint}` is no address such as https://huggingface.co; correct or unset it");
            return Err(HubError::Setting { setting: "HF_ENDPOINT", problem });
        }
        let agent = Agent::config_builder()
            .user_agent(concat!("directrix/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // They are followed here: the token goes to no other host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .tls_config(TlsConfig::builder().root_certs(certificates()?).build())
            .build()
            .new_agent();
        Ok(Client { agent, endpoint, token })
    }

    /// The address of a path of the hub.
    pub(super) fn address(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint)
    }

    /// A JSON answer.
    pub(super) fn json(&self, url: &str, about: About) -> Result<Value, HubError> {
        let mut answer = self.get(url, None, about)?;
        let mut bytes = Vec::new();
        let failed = |problem: String| HubError::Answer { url: url.into(), problem };
        let mut reader = answer.body.with_config().limit(u64::MAX).reader().take(MOST_LISTED + 1);
        reader.read_to_end(&mut bytes).map_err(|error| self.unreachable(url, about, &error.to_string()))?;
        if bytes.len() as u64 > MOST_LISTED {
            return Err(failed(format!("its answer is longer than {MOST_LISTED} bytes")));
        }
        serde_json::from_slice(&bytes).map_err(|error| failed(format!("its answer is no JSON ({error})")))
    }

    /// The answer to GET, of status 200 or 206; from byte `from` on, where the server can do that.
    pub(super) fn get(&self, url: &str, from: Option<u64>, about: About) -> Result<Answer, HubError> {
        let failed = |problem: &str| HubError::Answer { url: url.into(), problem: problem.into() };
        let first = url.parse::<Uri>().map_err(|_| failed("its address cannot be used"))?;
        let (mut uri, mut hub) = (first.clone(), None);
        for _ in 0..=MOST_REDIRECTS {
            let mut request = self.agent.get(&uri).header("Accept-Encoding", "identity");
            if let Some(from) = from {
                request = request.header("Range", format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_deref().filter(|_| origin(&uri) == origin(&first)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| match error {
                ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::LargeResponseHeader(..) => {
                    failed(&error.to_string())
                }
                error => self.unreachable(&uri.to_string(), about, error.to_string().trim_start_matches("io: ")),
            })?;
            let (parts, body) = response.into_parts();
            let status = parts.status.as_u16();
            let hub = &mut *hub.get_or_insert_with(HeaderMap::new);
            if origin(&uri) == origin(&first) {
                // Of several answers of the hub the first that says something counts.
                for (name, value) in &parts.headers {
                    if !hub.contains_key(name) {
                        hub.insert(name, value.clone());
                    }
                }
            }
            match status {
                200 | 206 => return Ok(Answer { status, hub: hub.clone(), last: parts.headers, body }),
                301 | 302 | 303 | 307 | 308 => {
                    let to = parts.headers.get("location").and_then(|to| to.to_str().ok());
                    let to = to.and_then(|to| redirected(&uri, to));
                    uri = to.ok_or_else(|| failed("it sends us on to an address that cannot be used"))?;
                }
                _ => return Err(self.refused(status, &parts.headers, body, about, origin(&uri) == origin(&first))),
            }
        }
        Err(failed("it sends us from one address to another without end"))
    }

    fn unreachable(&self, url: &str, about: About, reason: &str) -> HubError {
        let uri = url.parse::<Uri>().ok();
        let host = uri.as_ref().and_then(Uri::authority).map_or(self.endpoint.as_str(), |authority| authority.as_str());
        HubError::Network { host: host.into(), name: about.wanted.to_string(), reason: said(reason) }
    }

    /// What a status means.
    fn refused(&self, status: u16, headers: &HeaderMap, body: Body, about: About, by_hub: bool) -> HubError {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let code = header("x-error-code").unwrap_or_default();
        let reason = header("x-error-message").map(said).or_else(|| reason(body)).unwrap_or_default();
        let said = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let (name, endpoint) = (about.wanted.repository.clone(), self.endpoint.clone());
        match (status, code) {
            (_, "GatedRepo") => HubError::Gated { name, endpoint, said },
            (_, "RevisionNotFound") => HubError::NoRevision { name, revision: about.wanted.revision.clone(), said },
            (404, _) if by_hub && about.file.is_some() => {
                HubError::NoFile { name, file: about.file.unwrap_or_default().into(), endpoint, said }
            }
            // To those without a token the hub says of a private repository, and of none, that they may not see it.
            (401, _) if self.token.is_none() && by_hub => self.no_repository(about, said),
            (404, "RepoNotFound" | "") if by_hub => self.no_repository(about, said),
            (401, _) if by_hub => {
                let todo = "its token is not accepted: set HF_TOKEN to one that is valid";
                HubError::Refused { name, status, said, todo }
            }
            (403, _) if by_hub => {
                let todo = "set HF_TOKEN to a token that may read it, or ask its owner";
                HubError::Refused { name, status, said, todo }
            }
            (429, _) => {
                let seconds = header("retry-after").and_then(|seconds| seconds.trim().parse::<u32>().ok());
                let when = seconds.map_or_else(|| "in some minutes".into(), |seconds| format!("in {seconds} seconds"));
                let token = if self.token.is_none() { ", or set HF_TOKEN, with which more are allowed" } else { "" };
                HubError::Busy { said, when: when + token }
            }
            (500.., _) => HubError::Server { endpoint, status, said },
            _ => HubError::Refused { name, status, said, todo: "try again later; what was downloaded is kept" },
        }
    }

    fn no_repository(&self, about: About, said: String) -> HubError {
        let token = match self.token {
            Some(_) => ", and that the token in HF_TOKEN may read it",
            None => ", and if it is private set HF_TOKEN to a token that may read it",
        };
        HubError::NoRepository { name: about.wanted.to_string(), endpoint: self.endpoint.clone(), said, token }
    }
}

/// What is said in the body of an error, if it is something short.
fn reason(mut body: Body) -> Option<String> {
    const MOST: u64 = 4096;
    let bytes = body.with_config().limit(MOST).read_to_vec().ok()?;
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) => value["error"].as_str().map(said),
        Err(_) => None,
    }
}

/// What a server says, fit to be shown in one line of a message.
fn said(text: &str) -> String {
    const MOST: usize = 300;
    let line = one_line(text.trim().trim_end_matches('.'));
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Scheme, host and port.
fn origin(uri: &Uri) -> Option<(&str, &str, u16)> {
    let scheme = uri.scheme_str()?;
    let usual = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    Some((scheme, uri.host()?, uri.port_u16().unwrap_or(usual)))
}

/// Where `from` sends on to; nowhere that is less safe.
fn redirected(from: &Uri, to: &str) -> Option<Uri> {
    let (scheme, ..) = origin(from)?;
    let is_path = to.starts_with('/') && !to.starts_with("//");
    let uri: Uri = if is_path { format!("{scheme}://{}{to}", from.authority()?).parse() } else { to.parse() }.ok()?;
    let (new_scheme, ..) = origin(&uri)?;
    (scheme == "http" || new_scheme == "https").then_some(uri)
}

/// The authorities that are trusted: those of `SSL_CERT_FILE`, as elsewhere, or else Mozilla's.
fn certificates() -> Result<RootCerts, HubError> {
    const SETTING: &str = "SSL_CERT_FILE";
    let Some(path) = std::env::var_os(SETTING).filter(|path| !path.is_empty()) else { return Ok(RootCerts::WebPki) };
    let failed = |problem: &str| {
        let problem = format!("`{}` {problem}; correct or unset it", path.display());
        HubError::Setting { setting: SETTING, problem }
    };
    let pem = fs::read(&path).map_err(|error| failed(&format!("cannot be read ({error})")))?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    let certificates: Vec<_> = parse_pem(&pem).filter_map(certificate).collect();
    if certificates.is_empty() {
        return Err(failed("holds no certificate in PEM"));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

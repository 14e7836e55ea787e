//! The Workload: what is sent. Credentials are referred to, never stored.

use serde::{Deserialize, Serialize};

/// Where a secret comes from when it is needed. Only the reference is ever written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum Credential {
    /// An environment variable.
    Env {
        /// Its name.
        name: String,
    },
    /// A file's first line.
    File {
        /// Its path.
        path: String,
    },
    /// Given on the command line, held in memory only: the run cannot be repeated without it.
    Inline,
}

/// A header's value: plain, or with a secret that is filled in when the request is rendered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "value")]
pub enum HeaderValue {
    /// Not secret.
    Plain {
        /// Text.
        text: String,
    },
    /// Secret, in memory only. `secret` is never serialised.
    Secret {
        /// Reference.
        credential: Credential,
        /// The resolved text.
        #[serde(skip)]
        secret: String,
        /// Text before the secret (`Bearer `).
        #[serde(default)]
        prefix: String,
    },
}

/// A request body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "body")]
pub enum Body {
    /// None.
    Empty,
    /// Bytes given inline. Not stored in the run (may hold secrets); its length and hash are.
    Inline {
        /// The bytes.
        #[serde(skip)]
        bytes: Vec<u8>,
        /// Length in bytes.
        length: u64,
    },
    /// A file (`@path`).
    File {
        /// Its path.
        path: String,
    },
}

/// One request with its variables still in it: `{1..20}` ranges and `{a,b,c}` lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestTemplate {
    /// Method.
    pub method: String,
    /// Absolute URL, without user info; may hold ranges. Secret query values are redacted when
    /// serialised.
    #[serde(serialize_with = "crate::secret::url")]
    pub url: String,
    /// Headers in order. Values under a secret's name are redacted when serialised.
    #[serde(serialize_with = "crate::secret::headers")]
    pub headers: Vec<(String, HeaderValue)>,
    /// Body.
    pub body: Body,
    /// Accept invalid certificates (`-k`).
    pub insecure: bool,
    /// Ask for compression (`--compressed`).
    pub compressed: bool,
    /// Follow redirects (`-L`).
    pub follow_redirects: bool,
}

/// An endpoint under test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Stable name: method and path, ranges kept: `GET /orders?page={1..20}`.
    pub name: String,
    /// What to send.
    pub template: RequestTemplate,
    /// Name of a query parameter that sets the answer's size, when one is known or guessed
    /// (`limit`, `per_page`, `page_size`, `size`, …).
    pub size_parameter: Option<String>,
    /// What the user waited for it in the recording (HAR), milliseconds; ranks endpoints.
    pub recorded_ms: Option<u64>,
}

/// All that is sent in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Endpoints, most important first.
    pub endpoints: Vec<Endpoint>,
    /// The login request, sent once before everything else.
    pub login: Option<RequestTemplate>,
}

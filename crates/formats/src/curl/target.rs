//! Which of the words of a curl command is the URL. Traffic goes to what the user named, so a word
//! that may as well be the value of a flag that is not known is never taken by guessing.

use super::CurlError;

/// A word that may be the URL.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Byte offset into the command line.
    pub position: usize,
    /// The word.
    pub text: String,
    /// The unknown flag just before it, whose value it may be.
    pub after: Option<String>,
}

impl Candidate {
    fn has_scheme(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        text.starts_with("http://") || text.starts_with("https://")
    }
}

/// The index of the URL: the first word, when no reading of unknown flags makes it another one.
/// Behind an unknown flag it is the only word, or the only one with a scheme; nothing else.
///
/// # Errors
/// No word at all, or not certain which; names the unknown flag.
pub(super) fn chosen(words: &[Candidate]) -> Result<usize, CurlError> {
    let Some(first) = words.first() else {
        return Err(CurlError::at(0, "no URL in the command; add it: curl http://HOST/PATH"));
    };
    let Some(flag) = &first.after else { return Ok(0) };
    let mut schemes = words.iter().enumerate().filter(|(_, w)| w.has_scheme());
    match (schemes.next(), schemes.next()) {
        (Some((i, url)), None) if url.after.is_none() || words.len() == 1 => Ok(i),
        _ => Err(CurlError::at(
            first.position,
            format!(
                "flag {flag} is not known, so `{}` may be its value or the URL; remove {flag}, \
                 or write the URL first and with http://",
                first.text.chars().take(200).collect::<String>()
            ),
        )),
    }
}

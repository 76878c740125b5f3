//! The page on which people label answers.

use minijinja::context;

use super::template::{LABEL_SCRIPT, ReportError, STYLE, environment};

/// Renders the page on which people label answers. Its script and style carry the nonce.
///
/// # Errors
/// [`ReportError`].
pub fn label_page(nonce: &str, answers: usize) -> Result<String, ReportError> {
    let values = context! { style => STYLE, script => LABEL_SCRIPT, nonce, answers };
    Ok(environment()?.get_template("label.html")?.render(values)?)
}

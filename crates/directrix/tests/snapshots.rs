//! What the command shows, word for word: every help text, errors, results.
//!
//! `TRYCMD=overwrite cargo test --release -p directrix --test snapshots` writes what is shown now into the files.

#[test]
fn every_help_error_and_result_is_shown_as_it_was() {
    trycmd::TestCases::new().case("tests/snapshots/*.md").run();
}

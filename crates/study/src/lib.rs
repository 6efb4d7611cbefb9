//! Study files to tables, figures and a report.

//! Text, JSON lines and Parquet to tokenised prompts.

//! The columns of an entry, in the order in which [`Stored`](crate::audit::stored::Stored) reads
//! them. The tenant is not among them: every statement has it in its condition.

/// The columns, each of the table or alias `$of`.
macro_rules! columns {
    ($of:literal) => {
        concat!(
            $of,
            ".chain_no, ",
            $of,
            ".seq, ",
            $of,
            ".key_id, ",
            $of,
            ".kind, ",
            $of,
            ".occurred_at, ",
            $of,
            ".recorded_at, ",
            $of,
            ".event_id, ",
            $of,
            ".session_id, ",
            $of,
            ".agent_id, ",
            $of,
            ".user_id, ",
            $of,
            ".agent_key, ",
            $of,
            ".parent_id, ",
            $of,
            ".model, ",
            $of,
            ".input_hash, ",
            $of,
            ".output_hash, ",
            $of,
            ".decision, ",
            $of,
            ".metadata, ",
            $of,
            ".sealed, ",
            $of,
            ".ingest, ",
            $of,
            ".origin_journal, ",
            $of,
            ".origin_seq, ",
            $of,
            ".origin_mac, ",
            $of,
            ".mac, ",
            $of,
            ".signature"
        )
    };
}

pub(super) use columns;

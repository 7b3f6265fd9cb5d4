//! Options that list and choose metadata contexts.

use std::io::{Read, Write};
use std::sync::Arc;

use cairn_engine::nbd::wire::{MetaQuery, opt, rep};

use super::Mode;
use super::haggler::Haggler;
use crate::context::{CHOSEN_MAX, Context};
use crate::disk::DiskError;
use crate::exports::Export;
use crate::transmission::disk_error;

/// Queries of one option: each may name many contexts, or make storage be asked.
const QUERIES_MAX: usize = 256;

impl<S: Read + Write> Haggler<'_, S> {
    /// Lists contexts: all of them, or those that the queries ask for, each once.
    pub(super) fn list_contexts(&mut self, data: &[u8]) {
        let option = opt::LIST_META_CONTEXT;
        let Some((query, export)) = self.meta_query(option, data) else {
            return;
        };
        let mut found = Vec::new();
        if query.queries.is_empty() {
            found = Context::all(&export);
        }
        for query in &query.queries {
            let matching = match Context::matching(query, &export) {
                Ok(matching) => matching,
                Err(error) => return self.refuse_failed(option, &error),
            };
            for context in matching {
                if !found.contains(&context) {
                    found.push(context);
                }
            }
        }
        self.answer_contexts(option, &found);
    }

    /// Chooses contexts in place of those chosen before, even if that fails.
    pub(super) fn set_contexts(&mut self, data: &[u8]) {
        let option = opt::SET_META_CONTEXT;
        self.chosen = None;
        let Some((query, export)) = self.meta_query(option, data) else {
            return;
        };
        let mut chosen = Vec::new();
        for query in &query.queries {
            let context = match Context::find(query, &export) {
                Ok(Some(context)) => context,
                Ok(None) => continue,
                Err(error) => return self.refuse_failed(option, &error),
            };
            if !chosen.contains(&context) {
                chosen.push(context);
            }
            if chosen.len() > CHOSEN_MAX {
                let text = "there are too many contexts";
                return self.refuse(option, rep::ERR_TOO_BIG, text);
            }
        }
        self.answer_contexts(option, &chosen);
        self.chosen = Some((query.name, chosen));
    }

    /// Decodes either option and finds its export, or answers why not.
    fn meta_query(&mut self, option: u32, data: &[u8]) -> Option<(MetaQuery, Arc<Export>)> {
        let query = MetaQuery::decode(data);
        let (kind, text) = match &query {
            _ if self.mode < Mode::Structured => (
                rep::ERR_INVALID,
                "structured replies must be agreed on first",
            ),
            Err(_) => (rep::ERR_INVALID, "the option makes no sense"),
            Ok(query) if query.queries.len() > QUERIES_MAX => {
                (rep::ERR_TOO_BIG, "there are too many queries")
            }
            Ok(query) => match self.exports.find(&query.name) {
                Some(export) => return Some((query.clone(), Arc::clone(export))),
                None => (rep::ERR_UNKNOWN, "there is no such export"),
            },
        };
        self.refuse(option, kind, text);
        None
    }

    /// Says that nobody can tell whether there is a context, which a client must not take for no.
    fn refuse_failed(&mut self, option: u32, error: &DiskError) {
        let text = disk_error(error, None).message;
        self.refuse(option, rep::ERR_UNKNOWN, &text);
    }

    fn answer_contexts(&mut self, option: u32, found: &[Context]) {
        for (number, context) in found.iter().enumerate() {
            let id = match option {
                opt::SET_META_CONTEXT => u32::try_from(number).expect("contexts are bounded"),
                _ => 0,
            };
            let mut entry = Vec::new();
            MetaQuery::encode_context(id, &context.to_string(), &mut entry);
            self.answer(option, rep::META_CONTEXT, &entry);
        }
        self.answer(option, rep::ACK, &[]);
    }
}

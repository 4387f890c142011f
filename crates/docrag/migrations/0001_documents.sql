-- Postgres is the system of record: everything that is served can be rebuilt from here.

CREATE TABLE corpora (
    tenant      text NOT NULL,
    name        text NOT NULL,
    -- How this corpus is searched: hybrid, dense or lexical. Chosen by evaluation, since fusion hurts some corpora.
    search_mode text NOT NULL DEFAULT 'hybrid' CHECK (search_mode IN ('hybrid', 'dense', 'lexical')),
    mode_reason text NOT NULL DEFAULT 'default',
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name)
);

CREATE TABLE documents (
    -- UUIDv5 of tenant, corpus and source: the same document always has the same id. Nothing else keeps the three unique:
    -- an index of them would refuse a long source, since it holds no more than 2,704 bytes of a row.
    id              uuid PRIMARY KEY,
    tenant          text NOT NULL,
    corpus          text NOT NULL,
    -- The caller's own name of the document: a path, a URL, a key.
    source          text NOT NULL,
    title           text,
    media_type      text NOT NULL,
    metadata        jsonb NOT NULL DEFAULT '{}',
    -- SHA-256 of title, media type, metadata-free body: equal means unchanged.
    content_hash    bytea NOT NULL,
    byte_size       bigint NOT NULL,
    -- Counts the contents that were accepted, from 1 again when the row was removed meanwhile; a stage that started on
    -- another version or another content_hash gives up.
    version         bigint NOT NULL DEFAULT 1,
    state           text NOT NULL CHECK (state IN ('received', 'chunked', 'embedded', 'indexed', 'failed', 'deleted')),
    error           text,
    attempts        integer NOT NULL DEFAULT 0,
    -- Long readings of this content that never ended, in a row: each time the service went down.
    starts          integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    chunk_count     integer NOT NULL DEFAULT 0,
    -- The last change of this document that an index has to follow.
    outbox_seq      bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    -- Since when it is neither searchable nor failed, while it is so.
    waiting_since   timestamptz NOT NULL DEFAULT now(),
    indexed_at      timestamptz,
    FOREIGN KEY (tenant, corpus) REFERENCES corpora (tenant, name)
);
-- What is waiting for a stage, or for an index to follow.
CREATE INDEX documents_unfinished ON documents (next_attempt_at) WHERE state IN ('received', 'chunked');
CREATE INDEX documents_unfollowed ON documents (outbox_seq) WHERE state IN ('embedded', 'deleted');
CREATE INDEX documents_metadata ON documents USING gin (metadata jsonb_path_ops);
CREATE INDEX documents_listing ON documents (tenant, corpus, updated_at DESC, id DESC);

-- The bytes as they were received, until and after they are parsed: a chunker that changes can start again from them.
CREATE TABLE document_bodies (
    doc_id  uuid PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE,
    version bigint NOT NULL,
    body    bytea NOT NULL
);

-- The embedding models that this installation has used. A generation counts them.
CREATE TABLE models (
    generation  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fingerprint text NOT NULL UNIQUE,
    name        text NOT NULL,
    dimension   integer NOT NULL,
    -- Embeddings of the pinned texts, as in vectors.embedding, one after the other.
    probes      bytea NOT NULL,
    -- The model whose vectors are served. At most one.
    serving     boolean NOT NULL DEFAULT false,
    -- Since the switch to this model. What was there then is embedded again before its vectors are searched.
    serving_since timestamptz,
    -- An index that has followed the outbox so far holds all of that; NULL while it is being made.
    complete_seq  bigint DEFAULT 0,
    first_seen  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX models_one_serving ON models (serving) WHERE serving;

-- Chunks with their embeddings.
CREATE TABLE vectors (
    -- UUIDv5 of document, chunk hash and the ordinal among equal chunks of the document; not of the position.
    id                uuid PRIMARY KEY,
    doc_id            uuid NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    tenant            text NOT NULL,
    corpus            text NOT NULL,
    position          integer NOT NULL,
    heading           text NOT NULL DEFAULT '',
    content           text NOT NULL,
    -- SHA-256 of the text that is embedded (title, heading, content).
    chunk_hash        bytea NOT NULL,
    token_count       integer NOT NULL,
    -- Little-endian f32, `dimension` of them, of length 1. NULL until embedded.
    embedding         bytea,
    model_fingerprint text,
    generation        bigint,
    created_at        timestamptz NOT NULL DEFAULT now(),
    embedded_at       timestamptz
);
ALTER TABLE vectors ALTER COLUMN embedding SET STORAGE EXTERNAL;
CREATE INDEX vectors_of_document ON vectors (doc_id);
CREATE INDEX vectors_by_hash ON vectors (tenant, chunk_hash);

-- What the serving indexes have to follow. Written in the transaction that changes `vectors`, under one advisory lock,
-- so that `seq` grows in the order of commits and a follower that has seen a number has seen everything before it.
CREATE TABLE outbox (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant     text NOT NULL,
    corpus     text NOT NULL,
    doc_id     uuid NOT NULL,
    chunk_id   uuid NOT NULL,
    -- text: the chunk is there (lexical index); vector: its embedding is there (dense index); delete: both are gone;
    -- metadata: of the document (no index holds it, but what was cached is out of date; chunk_id is the document's).
    change     text NOT NULL CHECK (change IN ('text', 'vector', 'delete', 'metadata')),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- How far each index has followed. Shared indexes (Qdrant, pgvector) have one row, replica `shared`; each process has
-- rows for those that it keeps in memory, seen again every few seconds.
CREATE TABLE followers (
    index_name  text NOT NULL,
    replica     text NOT NULL,
    -- Which collection or table is served; a rebuild makes the next one.
    build       bigint NOT NULL DEFAULT 1,
    -- Of the vectors in that build; NULL when it was filled before the first model.
    generation  bigint,
    applied_seq bigint NOT NULL DEFAULT 0,
    seen_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (index_name, replica)
);
-- Which build of an index every process has to serve; a process that keeps the index in memory and sees a higher number
-- than its own rebuilds.
CREATE TABLE index_builds (index_name text PRIMARY KEY, wanted bigint NOT NULL);
-- Outbox entries up to here are gone; who has followed less must rebuild.
CREATE TABLE outbox_pruned (only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one), seq bigint NOT NULL);
INSERT INTO outbox_pruned (seq) VALUES (0);

BEGIN TRANSACTION;
CREATE TABLE annotators (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    token_hash TEXT,                              -- null: may not sign in
    extra_rounds INTEGER NOT NULL DEFAULT 0,      -- calibration rounds beyond the protocol's
    created_at REAL NOT NULL
);
INSERT INTO "annotators" VALUES(1,'ada','b15573f228b2de75856d848131104ea569f77b9ad05602b6076366a247f96c87',0,1.79600303146172547339e+09);
INSERT INTO "annotators" VALUES(2,'grace','afafec50444202968403baaafc5ddfbe5fae605702374b45b881dabff57b31fb',1,1.79600303146184349066e+09);
INSERT INTO "annotators" VALUES(3,'alan',NULL,0,1.79600303146186637878e+09);
CREATE TABLE assignments (
    id INTEGER PRIMARY KEY,
    annotator INTEGER NOT NULL REFERENCES annotators,
    group_key INTEGER NOT NULL REFERENCES groups,
    purpose TEXT NOT NULL,
    round INTEGER NOT NULL DEFAULT 0,             -- calibration rounds count from 1
    candidate_order TEXT NOT NULL,                -- JSON: candidate shown at each place
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'submitted', 'skipped', 'released')),
    version INTEGER NOT NULL DEFAULT 0,           -- the submission that counts; 0: none yet
    seconds REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    touched_at REAL NOT NULL,
    UNIQUE (annotator, group_key, round)
);
INSERT INTO "assignments" VALUES(1,1,6,'calibration',1,'[0, 2, 1]','submitted',1,1.30012035369873046875e-02,1.79600303316625690462e+09,1.79600303321461939815e+09);
INSERT INTO "assignments" VALUES(2,1,5,'calibration',1,'[1, 0, 2]','submitted',1,1.27594470977783203125e-02,1.79600303316657876969e+09,1.79600303327026247974e+09);
INSERT INTO "assignments" VALUES(3,1,1,'work',0,'[1, 2, 0]','submitted',1,1.66404247283935546875e-02,1.79600303330583953862e+09,1.79600303336208558082e+09);
INSERT INTO "assignments" VALUES(4,1,7,'gold',0,'[2, 0, 1]','submitted',2,4.0440082550048828125e-02,1.79600303338144159318e+09,1.79600303361853146557e+09);
INSERT INTO "assignments" VALUES(5,1,2,'work',0,'[0, 1, 2]','skipped',1,1.65627002716064453125e-02,1.79600303344144153591e+09,1.79600303356632447237e+09);
INSERT INTO "assignments" VALUES(6,1,3,'work',0,'[2, 1, 0]','open',0,3.9157390594482421875e-02,1.79600303350948572152e+09,1.79600303370654225346e+09);
INSERT INTO "assignments" VALUES(7,2,5,'calibration',1,'[1, 0, 2]','submitted',1,1.79364681243896484375e-02,1.79600303372988438603e+09,1.79600303376235985756e+09);
INSERT INTO "assignments" VALUES(8,2,6,'calibration',1,'[2, 1, 0]','submitted',1,1.22072696685791015625e-02,1.79600303373014473918e+09,1.79600303380232143406e+09);
CREATE TABLE calibrations (
    annotator INTEGER NOT NULL REFERENCES annotators,
    round INTEGER NOT NULL,
    passed INTEGER NOT NULL,
    shares TEXT NOT NULL,                         -- JSON: [exact, within one] by dimension
    finished_at REAL NOT NULL,
    PRIMARY KEY (annotator, round)
) WITHOUT ROWID;
INSERT INTO "calibrations" VALUES(1,1,1,'{"instruction_following": [1.0, 1.0], "visual_quality": [1.0, 1.0]}',1.79600303328210186958e+09);
INSERT INTO "calibrations" VALUES(2,1,0,'{"instruction_following": [0.0, 0.0], "visual_quality": [0.0, 0.0]}',1.79600303382474684715e+09);
CREATE TABLE drafts (
    assignment INTEGER NOT NULL REFERENCES assignments,
    candidate INTEGER NOT NULL,
    dimension TEXT NOT NULL,
    score INTEGER NOT NULL CHECK (score BETWEEN 1 AND 4),
    PRIMARY KEY (assignment, candidate, dimension)
) WITHOUT ROWID;
INSERT INTO "drafts" VALUES(6,1,'instruction_following',4);
CREATE TABLE groups (
    id INTEGER PRIMARY KEY,
    group_id TEXT NOT NULL UNIQUE,
    purpose TEXT NOT NULL CHECK (purpose IN ('work', 'calibration', 'gold')),
    position INTEGER NOT NULL,
    candidates INTEGER NOT NULL,
    reference TEXT,                               -- JSON: scores by dimension for each candidate, of known answers
    digest TEXT,                                  -- of instruction and images, once somebody has seen them
    fault TEXT,                                   -- why it cannot be shown
    active INTEGER NOT NULL DEFAULT 1             -- 0: no longer in the datasets that are served
);
INSERT INTO "groups" VALUES(1,'work-0','work',0,3,NULL,'43003961dd1c63e793b115fc3891bd42a142119dd763bf753aabcd1599d67bdf',NULL,1);
INSERT INTO "groups" VALUES(2,'work-1','work',1,3,NULL,'2dd1c61103cb7856578a73c1bec206596cd8f967093d95811eca8be4bb4d1a76',NULL,1);
INSERT INTO "groups" VALUES(3,'work-2','work',2,3,NULL,'7a39c575e7da98d6dc66f52cb917dfc8927f8f5bb095647d8a9b15c532c009ae',NULL,1);
INSERT INTO "groups" VALUES(4,'work-3','work',3,3,NULL,NULL,NULL,1);
INSERT INTO "groups" VALUES(5,'calibration-0','calibration',4,3,'[{"instruction_following": 3.0, "visual_quality": 3.0}, {"instruction_following": 3.0, "visual_quality": 3.0}, {"instruction_following": 3.0, "visual_quality": 3.0}]','b1258891a582aee805618fd29e28ffffa3f263e415c000de5efc42ef2248d926',NULL,1);
INSERT INTO "groups" VALUES(6,'calibration-1','calibration',5,3,'[{"instruction_following": 3.0, "visual_quality": 3.0}, {"instruction_following": 3.0, "visual_quality": 3.0}, {"instruction_following": 3.0, "visual_quality": 3.0}]','da8d0e5db653a5a8e578ba85df74280039b54b66517b921f6156164d0f8046ed',NULL,1);
INSERT INTO "groups" VALUES(7,'gold-0','gold',6,3,'[{"instruction_following": 3.0, "visual_quality": 3.0}, {"instruction_following": 3.0, "visual_quality": 3.0}, {"instruction_following": 3.0, "visual_quality": 3.0}]','645375721c3dd698fd78d697f850bf8cfe3ba71c37ca77b8e04adb1d7203b4e0',NULL,1);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('dimensions','["instruction_following", "visual_quality"]');
INSERT INTO "meta" VALUES('ratings_per_group','2');
INSERT INTO "meta" VALUES('schema','1');
CREATE TABLE proposals (
    tuple INTEGER NOT NULL REFERENCES tuples,
    annotator INTEGER NOT NULL REFERENCES annotators,
    ranks TEXT,                                   -- JSON: rank by candidate; null: the tuple should be left out
    comment TEXT NOT NULL,
    submitted_at REAL NOT NULL,
    PRIMARY KEY (tuple, annotator)
) WITHOUT ROWID;
INSERT INTO "proposals" VALUES(1,1,'[1, 2]','',1.79600303393796229358e+09);
INSERT INTO "proposals" VALUES(1,2,'[1, 2]','agreed',1.79600303394995498658e+09);
INSERT INTO "proposals" VALUES(2,1,NULL,'no image is right',1.79600303396606731419e+09);
CREATE TABLE scores (
    assignment INTEGER NOT NULL,
    version INTEGER NOT NULL,
    candidate INTEGER NOT NULL,
    dimension TEXT NOT NULL,
    score INTEGER NOT NULL CHECK (score BETWEEN 1 AND 4),
    PRIMARY KEY (assignment, version, candidate, dimension),
    FOREIGN KEY (assignment, version) REFERENCES submissions
) WITHOUT ROWID;
INSERT INTO "scores" VALUES(1,1,0,'instruction_following',3);
INSERT INTO "scores" VALUES(1,1,0,'visual_quality',3);
INSERT INTO "scores" VALUES(1,1,1,'instruction_following',3);
INSERT INTO "scores" VALUES(1,1,1,'visual_quality',3);
INSERT INTO "scores" VALUES(1,1,2,'instruction_following',3);
INSERT INTO "scores" VALUES(1,1,2,'visual_quality',3);
INSERT INTO "scores" VALUES(2,1,0,'instruction_following',3);
INSERT INTO "scores" VALUES(2,1,0,'visual_quality',3);
INSERT INTO "scores" VALUES(2,1,1,'instruction_following',3);
INSERT INTO "scores" VALUES(2,1,1,'visual_quality',3);
INSERT INTO "scores" VALUES(2,1,2,'instruction_following',3);
INSERT INTO "scores" VALUES(2,1,2,'visual_quality',3);
INSERT INTO "scores" VALUES(3,1,0,'instruction_following',2);
INSERT INTO "scores" VALUES(3,1,0,'visual_quality',2);
INSERT INTO "scores" VALUES(3,1,1,'instruction_following',2);
INSERT INTO "scores" VALUES(3,1,1,'visual_quality',2);
INSERT INTO "scores" VALUES(3,1,2,'instruction_following',2);
INSERT INTO "scores" VALUES(3,1,2,'visual_quality',2);
INSERT INTO "scores" VALUES(4,1,0,'instruction_following',4);
INSERT INTO "scores" VALUES(4,1,0,'visual_quality',4);
INSERT INTO "scores" VALUES(4,1,1,'instruction_following',4);
INSERT INTO "scores" VALUES(4,1,1,'visual_quality',4);
INSERT INTO "scores" VALUES(4,1,2,'instruction_following',4);
INSERT INTO "scores" VALUES(4,1,2,'visual_quality',4);
INSERT INTO "scores" VALUES(4,2,0,'instruction_following',1);
INSERT INTO "scores" VALUES(4,2,0,'visual_quality',1);
INSERT INTO "scores" VALUES(4,2,1,'instruction_following',1);
INSERT INTO "scores" VALUES(4,2,1,'visual_quality',1);
INSERT INTO "scores" VALUES(4,2,2,'instruction_following',1);
INSERT INTO "scores" VALUES(4,2,2,'visual_quality',1);
INSERT INTO "scores" VALUES(7,1,0,'instruction_following',1);
INSERT INTO "scores" VALUES(7,1,0,'visual_quality',1);
INSERT INTO "scores" VALUES(7,1,1,'instruction_following',1);
INSERT INTO "scores" VALUES(7,1,1,'visual_quality',1);
INSERT INTO "scores" VALUES(7,1,2,'instruction_following',1);
INSERT INTO "scores" VALUES(7,1,2,'visual_quality',1);
INSERT INTO "scores" VALUES(8,1,0,'instruction_following',1);
INSERT INTO "scores" VALUES(8,1,0,'visual_quality',1);
INSERT INTO "scores" VALUES(8,1,1,'instruction_following',1);
INSERT INTO "scores" VALUES(8,1,1,'visual_quality',1);
INSERT INTO "scores" VALUES(8,1,2,'instruction_following',1);
INSERT INTO "scores" VALUES(8,1,2,'visual_quality',1);
CREATE TABLE sessions (
    key_hash TEXT PRIMARY KEY,
    annotator INTEGER NOT NULL REFERENCES annotators,
    created_at REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO "sessions" VALUES('a7f853643f00fa5a4e9e3fa6caf88a659eeffe9504a9c442c5bb6fafe95a454f',1,1.79600303387331914901e+09);
CREATE TABLE submissions (
    assignment INTEGER NOT NULL REFERENCES assignments,
    version INTEGER NOT NULL,
    form TEXT NOT NULL UNIQUE,
    reason TEXT,                                  -- why the group was skipped; null: it was rated
    comment TEXT,
    seconds REAL NOT NULL,
    submitted_at REAL NOT NULL,
    PRIMARY KEY (assignment, version)
) WITHOUT ROWID;
INSERT INTO "submissions" VALUES(1,1,'sZHTfCUzoDZKYsAl',NULL,'',1.30012035369873046875e-02,1.79600303321461939815e+09);
INSERT INTO "submissions" VALUES(2,1,'T_sdK2_KqDTESlI-',NULL,'',1.27594470977783203125e-02,1.79600303327026247974e+09);
INSERT INTO "submissions" VALUES(3,1,'I3rciPCVArlbFOWJ',NULL,'',1.66404247283935546875e-02,1.79600303336208558082e+09);
INSERT INTO "submissions" VALUES(4,1,'JeJ38kwyxR0bA2M1',NULL,'',1.2694835662841796875e-02,1.79600303343014550206e+09);
INSERT INTO "submissions" VALUES(4,2,'tvTMJ5RuTgimU4Q5',NULL,'',4.0440082550048828125e-02,1.79600303361853146557e+09);
INSERT INTO "submissions" VALUES(5,1,'IdmeVPXo4xUeXmNg','The instruction makes no sense for this image','why',1.65627002716064453125e-02,1.79600303349800467494e+09);
INSERT INTO "submissions" VALUES(7,1,'R1BUtGWOoW5lgD-5',NULL,'',1.79364681243896484375e-02,1.79600303376235985756e+09);
INSERT INTO "submissions" VALUES(8,1,'SG81eMzGuqEB-Rt0',NULL,'',1.22072696685791015625e-02,1.79600303380232143406e+09);
CREATE TABLE tuples (
    id INTEGER PRIMARY KEY,
    tuple_id TEXT NOT NULL UNIQUE,
    group_id TEXT NOT NULL,
    candidates TEXT NOT NULL,                     -- JSON: indices into the group's candidates
    reason TEXT NOT NULL,
    quorum INTEGER NOT NULL,                      -- how many have to agree
    active INTEGER NOT NULL DEFAULT 1
);
INSERT INTO "tuples" VALUES(1,'work-0#1-2','work-0','[1, 2]','no majority',2,1);
INSERT INTO "tuples" VALUES(2,'work-1#0-1-2','work-1','[0, 1, 2]','drawn',2,1);
CREATE INDEX assignments_of_group ON assignments (group_key, state);
COMMIT;

-- Fills StreamFlix, between schema.sql and constraints.sql. The psql variable scale sets the size.
--
-- The same scale gives the same rows on every machine and every major version: no random(), no clock, no
-- floating-point functions, no dependence on locale. Every value comes from the row's number through
-- hashint8extended, which hash partitioning relies on and which is therefore never changed.
--
-- Parents of a row are computed and not looked up: account a has the profiles 4(a-1)+1 .. 4(a-1)+n(a), title t is
-- a series if t is divisible by 3, and so on. One pass over a series of numbers writes a table.

\set ON_ERROR_STOP on
\set QUIET on
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET ROLE streamflix_owner;

-- The history: beta test from 2024-12-15, launch on 2025-01-01, last day 2026-10-31.
SELECT (date '2026-11-01' - date '2024-12-15') AS days,
       greatest(50, round(6000 * :scale))::bigint AS accounts,
       greatest(30, round(2500 * :scale))::bigint AS titles,
       greatest(500, round(460000 * :scale))::bigint AS events \gset

------------------------------------------------------------------------------------------- building blocks

-- All of these are inlined by the planner. mix: a number in 0 .. 2^63-1; each use has a salt of its own.
CREATE FUNCTION pg_temp.mix(n bigint, salt bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    'SELECT hashint8extended(n, salt) & 9223372036854775807';
CREATE FUNCTION pg_temp.hex16(n bigint, salt bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    'SELECT lpad(to_hex(hashint8extended(n, salt)), 16, ''0'')';
CREATE FUNCTION pg_temp.random_uuid(n bigint, salt bigint) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    'SELECT overlay(overlay(pg_temp.hex16(n, salt) || pg_temp.hex16(n, -salt) PLACING ''4'' FROM 13) PLACING ''a'' FROM 17)::uuid';
CREATE FUNCTION pg_temp.moment(day bigint, second bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    'SELECT to_timestamp((1734220800 + 86400 * day + second)::double precision)';

CREATE FUNCTION pg_temp.first_name(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('{Anna,Ben,Chloé,David,Emma,Finn,Greta,Hugo,Ines,Jan,Klara,Léon,Mia,Noah,Olga,Paul,Quinn,Rosa,Søren,Tess,
        Ümit,Vera,Wim,Xenia,Yusuf,Zoë,Aisha,Bram,Carla,Daan,Elif,Fatima,Gijs,Hanna,Ivo,Julia,Kenji,Lotte,Marek,Nadia,
        Omar,Petra,Rafael,Sanne,Tomás,Ursula,Viktor,Willem,Yara,Zsófia,Aoife,Björn,Camille,Dmitri,Eszter,Francesca,
        Gonçalo,Haruka,Ingrid,João,Karel,Lucía,Mehmet,Niamh}'::text[])[1 + n % 64] $$;
CREATE FUNCTION pg_temp.last_name(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('{Andersen,Bakker,Costa,Dubois,Eriksson,Fischer,García,Horváth,Ivanova,Jansen,Kowalski,Lefèvre,Müller,Novák,
        O''Brien,Petrov,Quist,Rossi,Smit,Tanaka,Usta,Visser,Weber,Xu,Yılmaz,Zimmermann,Almeida,Bianchi,Conti,de Vries,
        Esposito,Ferrari,Gruber,Hoffmann,Ibrahim,Jovanović,Kaya,Lindqvist,Moreau,Nagy,Olsen,Papadopoulos,Romero,Silva,
        Tóth,Ueda,van Dijk,Wójcik,Nakamura,Santos,Meyer,Lindström,Keller,Hansen,Fernández,Doyle,Byrne,Claes,Peeters,
        Virtanen,Korhonen,Nilsson,Marino,Sato}'::text[])[1 + n % 64] $$;
CREATE FUNCTION pg_temp.adjective(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('{Silent,Crimson,Hidden,Broken,Golden,Distant,Frozen,Last,Burning,Empty,Quiet,Secret,Wild,Lost,Pale,Hollow,
        Electric,Northern,Velvet,Bitter,Midnight,Paper,Stolen,Endless,Iron,Gentle,Savage,Forgotten,Second,Invisible,
        Restless,Blue,Black,White,Scarlet,Final,Borrowed,Wicked,Honest,Salt}'::text[])[1 + n % 40] $$;
CREATE FUNCTION pg_temp.noun(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('{Harbour,Winter,Orchard,Witness,Garden,River,Machine,Letter,Kingdom,Promise,Mirror,Island,Engine,Daughter,
        Stranger,Archive,Signal,Summer,Station,Verdict,Shadow,Lighthouse,Horizon,Inheritance,Detective,Circus,Border,
        Painter,Wolf,Chapel,Comet,Railway,Bakery,Translator,Storm,Ferry,Hotel,Astronaut,Cartographer,Bridge}'::text[])[1 + n % 40] $$;
CREATE FUNCTION pg_temp.place(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('{Lisbon,Rotterdam,Oslo,Kyoto,Naples,Prague,Havana,Reykjavik,Marseille,Tbilisi,Cork,Antwerp,Trieste,Bergen,
        Porto,Gdansk,Montreal,Valparaiso,Istanbul,Leipzig,Utrecht,Dakar,Hanoi,Seville}'::text[])[1 + n % 24] $$;
CREATE FUNCTION pg_temp.language(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('{en,nl,de,fr,es,it,pt,pl,sv,da,tr,ja}'::text[])[1 + n % 12] $$;
CREATE FUNCTION pg_temp.country(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('{NL,NL,NL,DE,DE,BE,FR,ES,IT,PT,PL,SE,DK,IE}'::text[])[1 + n % 14] $$;
CREATE FUNCTION pg_temp.title_name(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE n % 6
        WHEN 0 THEN 'The ' || pg_temp.adjective(n >> 8) || ' ' || pg_temp.noun(n >> 20)
        WHEN 1 THEN 'The ' || pg_temp.noun(n >> 20) || ' of ' || pg_temp.place(n >> 32)
        WHEN 2 THEN pg_temp.adjective(n >> 8) || ' ' || pg_temp.noun(n >> 20)
        WHEN 3 THEN 'A ' || pg_temp.noun(n >> 20) || ' in ' || pg_temp.place(n >> 32)
        WHEN 4 THEN pg_temp.noun(n >> 20) || ' and ' || pg_temp.noun(n >> 26)
        ELSE pg_temp.place(n >> 32) || ', ' || pg_temp.adjective(n >> 8) || ' ' || pg_temp.noun(n >> 20)
    END $$;
CREATE FUNCTION pg_temp.plot(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('{A retired detective,A young translator,A pair of sisters,The captain of a ferry,An honest forger,A night nurse,
            The last lighthouse keeper,A failed cartographer,A class of students,A judge on leave,A widowed baker,
            An astronaut without a mission}'::text[])[1 + n % 12] || ' '
        || ('{finds a letter that was never sent,returns after nineteen years,inherits a hotel nobody has booked,
            witnesses a crime that nobody reports,is hired to watch the wrong man,misses the last train,
            discovers a second set of books,must choose between two promises,takes the blame for a fire,
            wakes up with another name}'::text[])[1 + (n >> 10) % 10] || ' in ' || pg_temp.place(n >> 20) || ', '
        || ('{and nothing stays hidden for long,while the town looks away,until the first snow falls,as an old debt comes due,
            and the clock is already running,because someone has been lying from the start,with a storm on its way,
            and the only witness is a child}'::text[])[1 + (n >> 40) % 8] || '.' $$;
CREATE FUNCTION pg_temp.opinion(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('{I wanted to like this,We watched it in one weekend,My daughter picked this one,Not what the trailer promises,
            Better than the first season,The first half drags,Cannot remember when I last laughed so much,
            Beautifully filmed,Turned it off after twenty minutes,The best thing here this year,Third time I see it,
            Overrated}'::text[])[1 + n % 12]
        || (ARRAY[', and the music alone is worth it', ', but the ending ruins it', ', although the sound mix is terrible',
                  '. The lead carries every scene', '. The subtitles are a mess', '. Nobody talks like that',
                  ', and then the plot twist came', '. Stay until the credits', ', even with the slow start',
                  '. My husband fell asleep'])[1 + (n >> 10) % 10]
        || (ARRAY['.', '!', '. Would watch again.', '. Two hours I will not get back.', '. Recommended for a rainy evening.',
                  '. Not for children.', '. More like this, please.', '. Minute '])[1 + (n >> 20) % 8]
        || CASE WHEN (n >> 20) % 8 = 7 THEN (n >> 30) % 110 || ' is unforgettable.' ELSE '' END $$;

-- The shape of the data: what a row's number says about its children.
CREATE FUNCTION pg_temp.profiles_of(account bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    'SELECT 1 + pg_temp.mix(account, 11) % 4';
CREATE FUNCTION pg_temp.devices_of(account bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    'SELECT 1 + pg_temp.mix(account, 12) % 3';
CREATE FUNCTION pg_temp.seasons_of(title bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    'SELECT 1 + pg_temp.mix(title, 13) % 4';
CREATE FUNCTION pg_temp.episodes_of(title bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    'SELECT 6 + pg_temp.mix(title, 14) % 5';
CREATE FUNCTION pg_temp.minutes_of(title bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    'SELECT CASE WHEN title % 3 = 0 THEN 22 + pg_temp.mix(title, 15) % 40 ELSE 78 + pg_temp.mix(title, 15) % 75 END';
-- Three in ten accounts are there on the first day, the others arrive evenly until the last.
CREATE FUNCTION pg_temp.day_of(account bigint, accounts bigint, days bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    'SELECT greatest(0, days * (10 * account - 3 * accounts) / (7 * accounts))';

---------------------------------------------------------------------------------------------------- catalog

INSERT INTO "Genre" (genre_id, name)
SELECT ordinality, name
FROM unnest('{Action,Adventure,Animation,Anime,Biography,Comedy,Crime,Documentary,Drama,Family,Fantasy,History,Horror,
              Music,Mystery,Romance,Science fiction,Thriller}'::text[]) WITH ORDINALITY AS g (name, ordinality);

INSERT INTO "Plan" (plan_id, name, monthly_price, quality, streams, features) VALUES
    (1, 'Basic with adverts', 4.99, 'HD', 1, '{"adverts": true, "downloads": 0}'),
    (2, 'Standard', 9.99, 'HD', 2, '{"adverts": false, "downloads": 25}'),
    (3, 'Family', 13.99, 'UHD', 4, '{"adverts": false, "downloads": 100, "kids": true}'),
    (4, 'Cinema', 17.99, 'UHD', 6, '{"adverts": false, "downloads": 200, "hdr": ["HDR10", "Dolby Vision"], "early_access": true}');

-- Posters first: one for nine titles of ten, two to eight kB, as incompressible as the JPEG they pretend to be.
-- Their oids are given and not assigned, because "Title" shows them. Large objects have no other numbers in a
-- fresh database.
SELECT count(lo_from_bytea((100000 + t)::oid,
           '\xffd8ffe000104a46494600010100000100010000'::bytea || noise.bytes || '\xffd9'::bytea)) AS posters
FROM generate_series(1::bigint, :titles) AS t,
LATERAL (SELECT string_agg(int8send(hashint8extended(t * 1024 + k, 21)), ''::bytea) AS bytes
         FROM generate_series(1, 256 + pg_temp.mix(t, 22) % 768) AS k) AS noise
WHERE t % 10 <> 0 \gset

INSERT INTO "Title" (title_id, kind, maturity, released_on, runtime_minutes, poster, name, original_language,
                     audio_languages, subtitle_languages, synopsis, details, created_at, updated_at)
SELECT t,
       (CASE WHEN t % 3 = 0 THEN 'series' ELSE 'film' END)::title_kind,
       ('{all,6,9,12,12,16,16,18}'::maturity_rating[])[1 + m % 8],
       date '1968-01-01' + ((m >> 3) % 20200)::integer,
       CASE WHEN t % 3 <> 0 THEN pg_temp.minutes_of(t) END,
       CASE WHEN t % 10 <> 0 THEN 100000 + t END,
       pg_temp.title_name(pg_temp.mix(t, 32)),
       pg_temp.language(m >> 12),
       (ARRAY[pg_temp.language(m >> 12), 'en', pg_temp.language((m >> 12) + 1 + (m >> 16) % 5)])[:1 + (m >> 18) % 3],
       (ARRAY['en', 'nl', 'de', 'fr', 'es', 'pl'])[:1 + (m >> 20) % 6],
       pg_temp.plot(pg_temp.mix(t, 33)) || ' ' || pg_temp.plot(pg_temp.mix(t, 34)),
       jsonb_build_object(
           'imdb', 'tt' || lpad((pg_temp.mix(t, 35) % 10000000)::text, 7, '0'),
           'director', pg_temp.first_name(m >> 24) || ' ' || pg_temp.last_name(m >> 30),
           'cast', (SELECT jsonb_agg(jsonb_build_object(
                               'name', pg_temp.first_name(pg_temp.mix(t * 8 + c, 36)) || ' ' || pg_temp.last_name(pg_temp.mix(t * 8 + c, 37)),
                               'role', pg_temp.first_name(pg_temp.mix(t * 8 + c, 38))) ORDER BY c)
                    FROM generate_series(1, 3 + m % 4) AS c),
           'keywords', jsonb_build_array(lower(pg_temp.noun(m >> 36)), lower(pg_temp.adjective(m >> 42)), lower(pg_temp.place(m >> 48))),
           'master', pg_temp.hex16(t, 39) || pg_temp.hex16(t, 40)),
       pg_temp.moment(0, 0), pg_temp.moment((m >> 20) % :days, (m >> 8) % 86400)
FROM (SELECT t, pg_temp.mix(t, 31) AS m FROM generate_series(1::bigint, :titles) AS t OFFSET 0) AS title;

-- Two or three different genres: steps of 1 to 5 from a first one, fewer than 18 together.
INSERT INTO "TitleGenre" (title_id, genre_id)
SELECT t, 1 + (pg_temp.mix(t, 41) + k * (1 + pg_temp.mix(t, 42) % 5)) % 18
FROM generate_series(1::bigint, :titles) AS t, generate_series(0, 1 + pg_temp.mix(t, 43) % 2) AS k;

INSERT INTO "Season" (title_id, season_number, released_on)
SELECT t, s, date '2014-01-01' + (pg_temp.mix(t, 44) % 2000 + s * 365)::integer
FROM generate_series(3::bigint, :titles, 3) AS t, generate_series(1, pg_temp.seasons_of(t)) AS s;

INSERT INTO "Episode" (title_id, season_number, episode_number, runtime_minutes, aired_on, name, synopsis)
SELECT t, s, e, pg_temp.minutes_of(t),
       date '2014-01-01' + (pg_temp.mix(t, 44) % 2000 + s * 365 + (e - 1) * 7)::integer,
       pg_temp.title_name(pg_temp.mix(t * 64 + s * 16 + e, 45)), pg_temp.plot(pg_temp.mix(t * 64 + s * 16 + e, 46))
FROM generate_series(3::bigint, :titles, 3) AS t,
     generate_series(1, pg_temp.seasons_of(t)) AS s,
     generate_series(1, pg_temp.episodes_of(t)) AS e;

-------------------------------------------------------------------------------------------------- customers

-- An account is created on the day before the one that day_of tells, so that all it does comes later.
INSERT INTO "Account" (account_id, public_id, main_profile_id, created_at, updated_at, marketing_consent, email,
                       password_hash, full_name, country, billing_address)
SELECT a, pg_temp.random_uuid(a, 51), 4 * a - 3,
       pg_temp.moment(day - 1, m % 86400), pg_temp.moment(day + (:days - day) * (m >> 20 & 255) / 256, (m >> 8) % 86400),
       m & 1 = 0,
       'viewer.' || pg_temp.hex16(a, 54)::varchar(5) || '.' || a || '@example.com',
       'scrypt$16384$8$1$' || encode(int8send(hashint8extended(a, 52)) || int8send(hashint8extended(a, 53)), 'base64')
           || '$' || encode(int8send(hashint8extended(a, 55)) || int8send(hashint8extended(a, 56)) || int8send(hashint8extended(a, 57)), 'base64'),
       pg_temp.first_name(m >> 12) || ' ' || pg_temp.last_name(m >> 20), pg_temp.country(m >> 30),
       CASE WHEN m % 20 <> 0 THEN
           ROW(pg_temp.noun(m >> 34) || ' street ' || 1 + (m >> 40) % 240, lpad(((m >> 26) % 100000)::text, 5, '0'),
               pg_temp.place(m >> 44), pg_temp.country(m >> 30))::postal_address END
FROM (SELECT a, pg_temp.mix(a, 58) AS m, pg_temp.day_of(a, :accounts, :days) AS day
      FROM generate_series(1::bigint, :accounts) AS a OFFSET 0) AS account;

INSERT INTO "Profile" (profile_id, account_id, created_at, updated_at, maturity_limit, name, language, favourite_genres, preferences)
SELECT p, a, pg_temp.moment(day - 1, m % 86400), pg_temp.moment(day, (m >> 8) % 86400),
       (CASE WHEN p % 4 = 0 THEN '9' WHEN p % 4 = 3 AND m & 1 = 0 THEN '12' ELSE '18' END)::maturity_rating,
       pg_temp.first_name(pg_temp.mix(a, 61) + n * 7),      -- 64 names in steps of 7: no two alike in an account
       pg_temp.language(m >> 16),
       (ARRAY[1 + (m >> 20) % 6, 7 + (m >> 24) % 6, 13 + (m >> 28) % 6])[:(m >> 32) % 4]::smallint[],
       jsonb_build_object('autoplay', m & 2 = 0, 'avatar', pg_temp.hex16(p, 62),
                          'subtitles', jsonb_build_object('size', 80 + (m >> 34) % 8 * 10, 'language', pg_temp.language(m >> 40)))
FROM (SELECT a, n, 4 * (a - 1) + n AS p, pg_temp.mix(4 * (a - 1) + n, 63) AS m, pg_temp.day_of(a, :accounts, :days) AS day
      FROM generate_series(1::bigint, :accounts) AS a, generate_series(1, pg_temp.profiles_of(a)) AS n OFFSET 0) AS profile;

INSERT INTO "Device" (device_id, account_id, registered_at, kind, details)
SELECT d, a, pg_temp.moment(day - 1, m % 86400),
       ('{tv,phone,tablet,computer,console}'::device_kind[])[1 + m % 5],
       jsonb_build_object(
           'model', ('{Vista 55,Nova X,Slate 11,Book Air,Play Box,Vista 65 Pro,Nova Mini}'::text[])[1 + m % 5 + (m >> 9) % 3],
           'os', ('{TizenOS,Android,iPadOS,Linux,Orbis}'::text[])[1 + m % 5] || ' ' || 9 + (m >> 12) % 9 || '.' || (m >> 16) % 7,
           'app', '5.' || (m >> 20) % 30 || '.' || (m >> 25) % 10,
           'serial', upper(pg_temp.hex16(d, 64)),
           'drm', jsonb_build_object('system', 'widevine', 'level', 'L' || 1 + (m >> 30) % 3, 'token', pg_temp.hex16(d, 65) || pg_temp.hex16(d, 66)))
FROM (SELECT a, 4 * (a - 1) + n AS d, pg_temp.mix(4 * (a - 1) + n, 67) AS m, pg_temp.day_of(a, :accounts, :days) AS day
      FROM generate_series(1::bigint, :accounts) AS a, generate_series(1, pg_temp.devices_of(a)) AS n OFFSET 0) AS device;

------------------------------------------------------------------------------------------------------ money

-- Three kinds of accounts: one plan until today (6 of 10), another plan since some day (2), and left (2).
-- Subscription 2a-1 is an account's first, 2a its second.
INSERT INTO "Subscription" (subscription_id, account_id, plan_id, status, period, monthly_price)
SELECT 2 * a - 2 + n, a, plan,
       (CASE WHEN n = 1 AND kind IN (6, 7) THEN 'replaced' WHEN kind IN (8, 9) THEN 'cancelled' ELSE 'active' END)::subscription_status,
       tstzrange(pg_temp.moment(CASE WHEN n = 1 THEN day ELSE change END, 0),
                 CASE WHEN n = 1 AND kind >= 6 THEN pg_temp.moment(change, 0) END),
       (ARRAY[4.99, 9.99, 13.99, 17.99])[plan]
FROM (SELECT a, n, m % 10 AS kind, 1 + ((m >> 8) + n) % 4 AS plan, day,
             day + 1 + (:days - day) * (m >> 20 & 255) / 256 AS change
      FROM (SELECT a, pg_temp.mix(a, 71) AS m, pg_temp.day_of(a, :accounts, :days) AS day
            FROM generate_series(1::bigint, :accounts) AS a OFFSET 0) AS account,
           generate_series(1, CASE WHEN m % 10 IN (6, 7) THEN 2 ELSE 1 END) AS n OFFSET 0) AS subscription;

-- One invoice a month, on the day of the month on which the subscription began. The last month is partly unpaid.
INSERT INTO "Invoice" (invoice_id, number, subscription_id, issued_at, due_at, status, net_amount, tax_rate)
SELECT row_number() OVER in_time, 100000 + row_number() OVER in_time, subscription_id, issued_at, issued_at + interval '14 days',
       (CASE WHEN issued_at >= pg_temp.moment(:days - 30, 0) AND m % 4 = 0 THEN 'open' WHEN m % 100 = 0 THEN 'void' ELSE 'paid' END)::invoice_status,
       monthly_price,
       CASE country WHEN 'NL' THEN 0.21 WHEN 'DE' THEN 0.19 WHEN 'FR' THEN 0.20 WHEN 'SE' THEN 0.25 ELSE 0.22 END
FROM (SELECT s.subscription_id, s.monthly_price, a.country, i.issued_at, pg_temp.mix(s.subscription_id * 64 + i.ordinality, 72) AS m
      FROM "Subscription" AS s
      JOIN "Account" AS a USING (account_id),
      LATERAL generate_series(lower(s.period), least(coalesce(upper(s.period), 'infinity'), pg_temp.moment(:days, 0)) - interval '1 second',
                              interval '1 month') WITH ORDINALITY AS i (issued_at, ordinality)
      OFFSET 0) AS month
WINDOW in_time AS (ORDER BY issued_at, subscription_id);

-- Every paid invoice has one payment that succeeded; one in 25 had a refused one the day before.
INSERT INTO "Payment" (payment_id, invoice_id, attempted_at, method, status, amount, provider_reference, details)
SELECT row_number() OVER (ORDER BY attempted_at, invoice_id, try), invoice_id, attempted_at, method,
       (CASE WHEN try = 0 THEN 'failed' ELSE 'succeeded' END)::payment_status,
       total_amount,
       'pay_' || pg_temp.hex16(invoice_id, 74) || pg_temp.hex16(invoice_id * 2 + try, 75)::varchar(8),
       CASE WHEN try = 0 THEN jsonb_build_object('reason', ('{insufficient_funds,expired,refused_by_bank}'::text[])[1 + (m >> 8) % 3])
            WHEN method = 'card' THEN jsonb_build_object('brand', ('{visa,mastercard,maestro}'::text[])[1 + (m >> 12) % 3],
                                                         'last4', lpad(((m >> 16) % 10000)::text, 4, '0'),
                                                         'expires', to_char(attempted_at + interval '400 days', 'YYYY-MM'))
            WHEN method = 'direct_debit' THEN jsonb_build_object('mandate', upper(pg_temp.hex16(invoice_id, 76)))
            ELSE '{}' END
FROM (SELECT i.invoice_id, i.total_amount, try, m,
             i.issued_at + interval '1 minute' * (m >> 30 & 1023) + interval '1 day' * try AS attempted_at,
             ('{card,card,card,direct_debit,direct_debit,wallet,gift_card}'::payment_method[])[1 + (m >> 44) % 7] AS method
      FROM (SELECT *, pg_temp.mix(invoice_id, 73) AS m FROM "Invoice" WHERE status = 'paid' OFFSET 0) AS i,
           generate_series(CASE WHEN m % 25 = 0 THEN 0 ELSE 1 END, 1) AS try
      OFFSET 0) AS attempt;

--------------------------------------------------------------------------------------------------- watching

-- In order of time, day by day, as a service writes them. The viewer is one of the accounts there were on that
-- day. Titles are chosen with a square, so that a few are watched by everybody: title number 7919 n mod titles,
-- in the order of n, because the popular ones should not be the lowest numbers. OFFSET 0 keeps each level's
-- values from being computed again wherever the next one uses them.
INSERT INTO "WatchEvent" (watch_event_id, started_at, profile_id, device_id, title_id, watched_seconds, season_number,
                          episode_number, stopped_at_percent, quality, playback_session, client_address, playback)
SELECT i,
       pg_temp.moment(day, greatest(m % 86400, (m >> 20) % 86400)),      -- the greater of two: more in the evening
       4 * (a - 1) + 1 + m % pg_temp.profiles_of(a),
       4 * (a - 1) + 1 + (m >> 4) % pg_temp.devices_of(a),
       t,
       pg_temp.minutes_of(t) * stopped * 6 / 10,
       CASE WHEN t % 3 = 0 THEN 1 + (m >> 12) % pg_temp.seasons_of(t) END,
       CASE WHEN t % 3 = 0 THEN 1 + (m >> 16) % pg_temp.episodes_of(t) END,
       stopped,
       ('{SD,HD,HD,UHD}'::video_quality[])[1 + (m >> 24) % 4],
       pg_temp.random_uuid(i, 81),
       '2001:db8::'::inet + (a * 65536 + m % 7),
       jsonb_build_object('kbps', 800 + (m >> 28) % 15000, 'stalls', (m >> 42) % 16 / 13,
                          'app', '5.' || (m >> 46) % 30 || '.' || (m >> 51) % 10, 'audio', pg_temp.language(m >> 54),
                          'cdn', ('{ams1,ams2,fra1,lhr3,mad1}'::text[])[1 + (m >> 58) % 5] || '-' || (m >> 32) % 40)
FROM (SELECT i, day, m, 1 + m2 % greatest(1, :accounts * (3 * :days + 7 * day) / (10 * :days)) AS a,
             1 + 7919 * (:titles * (m2 >> 40 & 65535) * (m2 >> 40 & 65535) >> 32) % :titles AS t,
             CASE WHEN (m2 >> 57) % 8 < 5 THEN 90 + (m2 >> 30) % 11 ELSE (m2 >> 30) % 90 END AS stopped
      FROM (SELECT i, (i - 1) * :days / :events AS day, pg_temp.mix(i, 82) AS m, pg_temp.mix(i, 83) AS m2
            FROM generate_series(1::bigint, :events) AS i OFFSET 0) AS event
      OFFSET 0) AS viewing;

-- Distinct titles of a profile: steps from a first one that together are shorter than the catalog.
INSERT INTO "WatchlistItem" (profile_id, title_id, position, added_at)
SELECT p, 1 + (pg_temp.mix(p, 91) + k * (1 + pg_temp.mix(p, 92) % (:titles / 6))) % :titles, k,
       pg_temp.moment(day + (:days - day) * k / 7, pg_temp.mix(p * 8 + k, 93) % 86400)
FROM (SELECT 4 * (a - 1) + n AS p, pg_temp.day_of(a, :accounts, :days) AS day
      FROM generate_series(1::bigint, :accounts) AS a, generate_series(1, pg_temp.profiles_of(a)) AS n OFFSET 0) AS profile,
     generate_series(1, pg_temp.mix(p, 94) % 6) AS k;

INSERT INTO "Rating" (profile_id, title_id, stars, rated_at, review)
SELECT p, 1 + (pg_temp.mix(p, 95) + k * (1 + pg_temp.mix(p, 96) % (:titles / 5))) % :titles,
       least(5, 1 + m % 6), pg_temp.moment(day + (:days - day) * k / 6, (m >> 4) % 86400),
       CASE WHEN (m >> 30) % 5 < 3 THEN pg_temp.opinion(m >> 8)
            WHEN (m >> 30) % 5 = 3 THEN pg_temp.opinion(m >> 8) || ' ' || pg_temp.opinion(m >> 16) || ' ' || pg_temp.opinion(m >> 24) END
FROM (SELECT p, k, day, pg_temp.mix(p * 8 + k, 97) AS m
      FROM (SELECT 4 * (a - 1) + n AS p, pg_temp.day_of(a, :accounts, :days) AS day
            FROM generate_series(1::bigint, :accounts) AS a, generate_series(1, pg_temp.profiles_of(a)) AS n OFFSET 0) AS profile,
           generate_series(1, pg_temp.mix(p, 98) % 5) AS k OFFSET 0) AS rating;

-- What the audit trigger would have written when the accounts that changed their plan did so.
INSERT INTO "AuditEntry" (changed_at, action, table_name, changed_by, old_row, new_row)
SELECT upper(s.period), 'UPDATE', 'Subscription', 'app',
       to_jsonb(s) || jsonb_build_object('status', 'active', 'period', tstzrange(lower(s.period), NULL)), to_jsonb(s)
FROM "Subscription" AS s
WHERE s.status <> 'active'
ORDER BY upper(s.period), s.subscription_id;

-------------------------------------------------------------------------------------------------- sequences

-- Rows were given their numbers; the next ones come from the sequences.
DO $$
DECLARE
    identity record;
BEGIN
    FOR identity IN
        SELECT attrelid::regclass AS in_table, attname AS name
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE attidentity = 'd' AND relnamespace = 'public'::regnamespace
    LOOP
        EXECUTE format('SELECT setval(pg_get_serial_sequence(%L, %L), max(%I)) FROM %s',
                       identity.in_table, identity.name, identity.name, identity.in_table);
    END LOOP;
    PERFORM setval('invoice_number_seq', max(number)) FROM "Invoice";
END
$$;

RESET ROLE;

-- The StreamFlix database, made when the server of docker-compose.yaml starts for the first time.
CREATE DATABASE streamflix TEMPLATE template0 ENCODING 'UTF8';
\connect streamflix
\i /init/sample/load.sql

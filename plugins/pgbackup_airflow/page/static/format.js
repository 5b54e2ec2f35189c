// Moments are shown in UTC, always with the zone's name: browsers, Airflow and servers live in others.
const pad = (number) => String(number).padStart(2, "0");

export const utc = (moment) =>
  moment === null || moment === undefined ? "never" : `${new Date(moment).toISOString().slice(0, 19).replace("T", " ")} UTC`;

// What people type: with a zone it is taken as it is, without one it is UTC; NaN for anything else.
export const parseMoment = (text) => {
  const match = /^\s*(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d(?::\d\d(?:\.\d+)?)?)\s*(UTC|Z|[+-]\d\d:?\d\d)?\s*$/iu.exec(text);
  if (!match) return Number.NaN;
  const zone = !match[3] || /^(UTC|Z)$/iu.test(match[3]) ? "Z" : match[3];
  return Date.parse(`${match[1]}T${match[2]}${zone}`);
};

export const browserZone = (moment = Date.now()) => {
  const minutes = -new Date(moment).getTimezoneOffset();
  const size = Math.abs(minutes);
  return `UTC${minutes < 0 ? "-" : "+"}${pad(Math.floor(size / 60))}:${pad(size % 60)}`;
};

export const local = (moment) => {
  const shifted = new Date(moment - new Date(moment).getTimezoneOffset() * 60_000);
  return `${shifted.toISOString().slice(0, 19).replace("T", " ")} ${browserZone(moment)}`;
};

export const span = (seconds) => {
  if (seconds === null || seconds === undefined) return "unknown";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86_400).toFixed(1)} days`;
};

export const size = (bytes) => {
  if (bytes === null || bytes === undefined) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), units.length - 1);
  return `${(bytes / 1000 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
};

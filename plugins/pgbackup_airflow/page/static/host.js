// What Airflow's UI lends to plugins: its React, its router, its Chakra UI; and with them its theme.
const { React, ReactRouterDOM, ChakraUI } = globalThis;

export const h = React.createElement;
export const { useCallback, useEffect, useMemo, useRef, useState } = React;
export const { Link, useNavigate, useLocation, useSearchParams } = ReactRouterDOM;
export const { Alert, Badge, Box, Button, Dialog, Flex, Heading, Input, Portal, Skeleton, Spinner, Stack, Table, Text } =
  ChakraUI;

// A colour of the host's theme, light or dark; every use says the same by a shape or a word.
export const color = (name) => `var(--chakra-colors-${name.replace(".", "-")})`;

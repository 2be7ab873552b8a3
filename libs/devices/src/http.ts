export { ApiTokensController, AuditController, DevicesController, EnrolmentTokensController, type DeviceDoor } from './devices.http.ts';
export { DevicesResolver } from './devices.graphql.ts';

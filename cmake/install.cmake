# `make install`: the program, the demo model where `-m` finds it by name, and the licences of both.
include(GNUInstallDirs)
if(TARGET metal-marlin)
  install(TARGETS metal-marlin RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(DIRECTORY models/GLM-4.7-Flash-Demo-MMFP4 DESTINATION ${CMAKE_INSTALL_DATADIR}/metal-marlin/models)
install(FILES LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})
